"""docs/metrics.md: current, and all that is exported under our prefix is in it."""

from pathlib import Path

from prometheus_client import REGISTRY

from publish import metrics_table

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_table_is_what_the_code_declares() -> None:
    assert DOCUMENT.read_text() == metrics_table.table(), "run `make docs`"


def test_every_metric_that_is_exported_is_in_the_table() -> None:
    text = metrics_table.table()  # importing it declares them all
    for family in REGISTRY.collect():
        if family.name.startswith("perpflow"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert f"| `{name}` | {family.type} |" in text


def test_names_and_units_follow_prometheus() -> None:
    """https://prometheus.io/docs/practices/naming/"""
    names = [one for module in metrics_table.modules() for one in metrics_table.described(module)]
    for one in names:
        assert one.name.startswith("perpflow_")
        assert one.name.endswith("_total") == (one.kind == "counter")
        assert not {"symbol", "key", "url", "path"} & set(one.labels)
        if one.kind == "histogram":
            assert one.name.endswith("_seconds")
    assert len({one.name for one in names}) == len(names) > 80
