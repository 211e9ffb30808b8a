"""The catalog and the OpenAPI document say what every dataset and field is."""

from pathlib import Path

import pytest

from aggregate.datasets import datasets
from publish.catalog import METRICS, RAW, Entry
from publish.raw_rows import SCHEMAS_OF_DAYS
from tests.publish.serving import Api

ENTRIES = [*METRICS.values(), *RAW.values()]


def test_the_built_datasets_are_listed_with_all_their_columns_in_order() -> None:
    assert list(METRICS) == [dataset.name for dataset in datasets()]
    for dataset in datasets():
        names = [field.name for field in METRICS[dataset.name].fields]
        assert names == ["time", *dataset.columns]


def test_the_raw_columns_are_the_archives() -> None:
    names = {"timestamp[ns, tz=UTC]": "timestamp[ns, UTC]", "double": "float64"}
    for entry in RAW.values():
        archived = [
            (f.name, names.get(str(f.type), str(f.type))) for f in SCHEMAS_OF_DAYS[entry.name]
        ]
        assert [(field.name, field.type) for field in entry.fields] == archived


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_everything_is_described_in_a_sentence_of_its_own(entry: Entry) -> None:
    texts = [entry.about, *(field.about for field in entry.fields)]
    for text in texts:
        assert len(text) >= 15, text
        assert text.endswith("."), text
        assert text[0] == text[0].upper(), text
    assert len(set(texts)) == len(texts), "two fields are described alike"


async def test_the_catalog_needs_no_key_and_has_every_field(tmp_path: Path) -> None:
    body = (await Api(tmp_path).get("/metadata/catalog", key="")).json()
    found = {entry["name"]: entry for entry in [*body["datasets"], *body["raw_datasets"]]}
    assert list(found) == [entry.name for entry in ENTRIES]
    for entry in ENTRIES:
        assert found[entry.name]["description"] == entry.about
        assert [
            (field["name"], field["type"], field["description"])
            for field in found[entry.name]["fields"]
        ] == [(field.name, field.type, field.about) for field in entry.fields]
    assert body["intervals"][0] == "1s"
    assert body["exchanges"] == ["binance-futures", "okx-perps", "hyperliquid-perps"]


async def test_openapi_has_the_same_words(tmp_path: Path) -> None:
    document = (await Api(tmp_path).get("/openapi.json", key="")).json()
    schemas = document["components"]["schemas"]
    for kind, entries in (("metrics", METRICS), ("raw", RAW)):
        for entry in entries.values():
            row = schemas[f"{kind}.{entry.name}"]
            assert entry.about in row["description"]
            described = {name: field["description"] for name, field in row["properties"].items()}
            assert described == {field.name: field.about for field in entry.fields}
    path = document["paths"]["/api/v1/data/{dataset}"]["get"]
    assert path["parameters"][0]["schema"]["enum"] == list(METRICS)
    assert METRICS["flow"].fields[7].about in path["parameters"][0]["description"]
