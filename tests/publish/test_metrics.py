"""What a store and the publishing tell of themselves."""

from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from publish.store import NotFound, Store, StoreError


def told(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"perpflow_{name}", labels) or 0.0


def test_a_store_tells_files_times_and_failures(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/out")
    seconds, failures = "store_operation_seconds_count", "store_operation_errors_total"
    before = {
        "files": told("files_written_total", tree="metrics_open"),
        "writes": told(seconds, operation="write"),
        "reads": told(failures, operation="read"),
        "failed": told(failures, operation="write"),
    }
    store.put("metrics_open/a/data.parquet", b"1")
    store.copy("metrics_open/a/data.parquet", "metrics_open/b/data.parquet")
    store.check()
    assert told("files_written_total", tree="metrics_open") == before["files"] + 2
    assert told(seconds, operation="write") == before["writes"] + 2
    with pytest.raises(NotFound):
        store.get("nothing")
    assert told(failures, operation="read") == before["reads"], "what isn't there is no failure"
    with pytest.raises(StoreError):
        store.put("metrics_open/a/data.parquet/below", b"1")
    assert told(failures, operation="write") == before["failed"] + 1
    assert told("files_written_total", tree="metrics_open") == before["files"] + 2
