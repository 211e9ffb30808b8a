"""Manifests: read back as written; digests of values, whatever file they are in."""

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from publish.layout import Series, manifest_key, month_key
from publish.replay.manifest import (
    Manifest,
    code_version,
    day_digest,
    identity,
    read_manifest,
    whole_digest,
    write_manifest,
)
from publish.store import Store

SERIES = Series("ohlcv", "okx-perps", "perpetual-BTC-USDT:USDT", "1m", "true")
MADE = Manifest(
    replay="1f",
    code=code_version(),
    settings={"lateness_ns": None},
    arrival="recorded",
    sources={"raw/trades/a": "00"},
    rows=2,
    first="2026-11-20T00:00:00+00:00",
    last="2026-11-20T00:01:00+00:00",
    gaps=0,
    digest="2e",
    days={"2026-11-20": "3d"},
    kept=[],
    series=["ohlcv/1m/true"],
)


def table(*values: float | None) -> pa.Table:
    times = pa.array(range(len(values)), pa.timestamp("us"))
    return pa.table({"time": times, "close": pa.array(values, pa.float64())})


def test_it_is_read_back_and_lies_apart_from_the_hive_tree(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}")
    assert read_manifest(store, SERIES, 2026, 11) is None
    write_manifest(store, SERIES, 2026, 11, MADE)
    assert read_manifest(store, SERIES, 2026, 11) == MADE
    [key] = store.list("")
    assert key == manifest_key(month_key(SERIES, 2026, 11))
    assert key == (
        "metrics_manifest/ohlcv/exchange=okx-perps/symbol=perpetual-BTC-USDT:USDT"
        "/interval=1m/timestamp=true/year=2026/month=11.json"
    )


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"version": 1}', b"[1]", b"\xff"])
def test_what_is_none_is_none(tmp_path: Path, damage: bytes) -> None:
    store = Store(f"file://{tmp_path}")
    store.put(manifest_key(month_key(SERIES, 2026, 11)), damage)
    assert read_manifest(store, SERIES, 2026, 11) is None
    newer = MADE.encode().replace(b'"version": 1', b'"version": 9')
    store.put(manifest_key(month_key(SERIES, 2026, 11)), newer)
    assert read_manifest(store, SERIES, 2026, 11) is None


def test_a_digest_is_of_values_not_of_a_file(tmp_path: Path) -> None:
    whole = table(1.0, None, 3.0)
    digest = day_digest(whole)
    assert day_digest(pa.concat_tables([whole.slice(0, 1), whole.slice(1)])) == digest
    for n, options in enumerate(({"compression": "none"}, {"row_group_size": 1})):
        pq.write_table(whole, tmp_path / f"{n}.parquet", **options)
        assert day_digest(pq.read_table(tmp_path / f"{n}.parquet")) == digest
    for other in (table(1.0, 2.0, 3.0), table(1.0, 3.0, None), whole.rename_columns(["time", "x"])):
        assert day_digest(other) != digest


def test_identities_know_order_only_where_it_counts() -> None:
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    assert identity([1, 2]) != identity([2, 1])
    one, two = date(2026, 11, 1), date(2026, 11, 2)
    assert whole_digest({one: "a", two: "b"}) == whole_digest({two: "b", one: "a"})
    assert whole_digest({one: "b", two: "a"}) != whole_digest({one: "a", two: "b"})
