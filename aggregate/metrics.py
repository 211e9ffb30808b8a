"""Prometheus metrics of aggregation, touched once a pass."""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

_SEAL = Histogram(
    "perpflow_seal_duration_seconds",
    "Time to seal, roll up and encode what a read made due",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
_RECORDS = Counter("perpflow_bar_records", "Records written to the bars topic")
COMMIT_FAILURES = Counter(
    "perpflow_aggregate_commit_failures", "Commits that the log refused and that were tried again"
)
_DROPPED = Counter(
    "perpflow_aggregate_discarded",
    "Ticks in no bar (and windows withheld), by reason",
    ["clock", "kind", "reason"],
)
_WATERMARK = Gauge(
    "perpflow_watermark_timestamp_seconds",
    "Time that the live collectors of a shard have promised",
    ["shard", "partition"],
)


def sealed(seconds: float, records: int) -> None:
    _SEAL.observe(seconds)
    _RECORDS.inc(records)


def dropped(counts: Mapping[tuple[str, str, str], int]) -> None:
    for (clock, kind, reason), n in counts.items():
        _DROPPED.labels(clock, kind, reason).inc(n)


def watermark(shard: str, partition: int, now_ns: int) -> None:
    if now_ns >= 0:
        _WATERMARK.labels(shard, str(partition)).set(now_ns / 1e9)
