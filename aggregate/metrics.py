"""Prometheus metrics of aggregation, touched once a pass."""

import contextlib
from collections.abc import Iterable, Mapping

from prometheus_client import Counter, Gauge, Histogram

_SEAL = Histogram(
    "perpflow_seal_duration_seconds",
    "Time to seal, roll up and encode what a read made due",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
_RECORDS = Counter("perpflow_bar_records", "Records written to the bars topic")
FAILURES = Counter(
    "perpflow_aggregate_failures",
    "Partitions started anew from their last commit because the log failed",
)
TRIMMED = Counter(
    "perpflow_ticks_trimmed",
    "Records that retention removed before they were aggregated",
    ["topic"],
)
OWNED = Gauge("perpflow_aggregate_partitions", "Partitions that this process works on")
_LAG = Gauge("perpflow_aggregate_lag_records", "Records not read yet", ["topic", "partition"])
_LAG_SECONDS = Gauge(
    "perpflow_aggregate_lag_seconds",
    "Age of the last record read, 0 where all are read",
    ["topic", "partition"],
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
_BAR_DELAY = Histogram(
    "perpflow_bar_close_delay_seconds",
    "From the end of a window to its bars' commit, of the oldest window in each commit",
    ["clock", "interval"],
    buckets=(0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.75, 1, 2.5, 5.25, 5.4, 5.5, 6, 10, 30, 60, 300),
)
COMMIT_SECONDS = Histogram(
    "perpflow_commit_seconds",
    "Time to make bars, state and offsets of a partition durable",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
TAKE_OVER_SECONDS = Histogram(
    "perpflow_takeover_seconds",
    "Time to take a partition over: fence the owner before, read and restore the state",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_OPEN_WINDOWS = Gauge("perpflow_open_windows", "Rows held for windows that are open", ["partition"])
_HELD_TICKS = Gauge(
    "perpflow_aggregate_held_ticks", "Ticks held for seconds that are open", ["partition"]
)
_STATE_BYTES = Gauge("perpflow_aggregate_state_bytes", "Size of the committed state", ["partition"])
_HELD = (_HELD_TICKS, _OPEN_WINDOWS, _STATE_BYTES)


def sealed(seconds: float, records: int) -> None:
    _SEAL.observe(seconds)
    _RECORDS.inc(records)


def dropped(counts: Mapping[tuple[str, str, str], int]) -> None:
    for (clock, kind, reason), n in counts.items():
        _DROPPED.labels(clock, kind, reason).inc(n)


def watermark(shard: str, partition: int, now_ns: int) -> None:
    if now_ns >= 0:
        _WATERMARK.labels(shard, str(partition)).set(now_ns / 1e9)


def state(partition: int, ticks: int, rows: int, size: int) -> None:
    """What a partition holds: ticks, rows of open windows, bytes of state."""
    for gauge, value in zip(_HELD, (ticks, rows, size), strict=True):
        gauge.labels(str(partition)).set(value)


def closed(ends: Mapping[tuple[str, str, str], int], now: float) -> None:
    """Bars of windows that ended then (s), by (shard, clock, interval), are committed at `now`."""
    for (_, clock, interval), end in ends.items():
        _BAR_DELAY.labels(clock, interval).observe(now - end)


def lag(topic: str, partition: int, records: int, seconds: float) -> None:
    _LAG.labels(topic, str(partition)).set(records)
    _LAG_SECONDS.labels(topic, str(partition)).set(seconds)


def forget(partition: int, shards: Iterable[str], topics: Iterable[str]) -> None:
    """Another process tells of this partition now."""
    for shard in shards:
        with contextlib.suppress(KeyError):
            _WATERMARK.remove(shard, str(partition))
    for topic in topics:
        for gauge in (_LAG, _LAG_SECONDS):
            with contextlib.suppress(KeyError):
                gauge.remove(topic, str(partition))
    for gauge in _HELD:
        with contextlib.suppress(KeyError):
            gauge.remove(str(partition))
