"""What is told of the ticks that arrive: once a flush, in a few calls."""

import uuid

import numpy as np
from prometheus_client import REGISTRY, CollectorRegistry, Histogram

from ingest.metrics import BatchHistogram, Flow, begin, connections
from ingest.ticks import BACKLOG, LIVE, Trades

SEED = 4
NS = 10**9
BOUNDS = (0, 0.01, 0.1, 1)


def told(name: str, exchange: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"perpflow_{name}", {"exchange": exchange, **labels})


def test_many_values_at_once_count_like_one_after_the_other() -> None:
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    values = np.concatenate([rng.exponential(0.2, 1000), [0.0, 0.01, 1.0, 1.0001, 50.0, -3.0]])
    registry = CollectorRegistry()
    batches = BatchHistogram("batches", "", ["of"], registry=registry, buckets=BOUNDS)
    ones = Histogram("ones", "", ["of"], registry=registry, buckets=BOUNDS)
    for some in np.array_split(values, 7):
        batches.labels("x").observe_many(some)
    for value in np.maximum(values, 0.0):
        ones.labels("x").observe(float(value))
    for bound in ("0.0", "0.01", "0.1", "1.0", "+Inf"):
        labels = {"of": "x", "le": bound}
        found = registry.get_sample_value("batches_bucket", labels)
        assert found == registry.get_sample_value("ones_bucket", labels)
    sums = [registry.get_sample_value(f"{name}_sum", {"of": "x"}) for name in ("batches", "ones")]
    assert np.isclose(*sums)


def trades(exchange_s: list[float], local_s: list[float], origin: list[int]) -> Trades:
    n = len(origin)
    return Trades(
        symbols=["s"],
        code=np.zeros(n, np.int32),
        exchange_ts=(np.array(exchange_s) * NS).astype(np.int64),
        local_ts=(np.array(local_s) * NS).astype(np.int64),
        id=np.arange(n),
        count=np.ones(n, np.int32),
        side=np.ones(n, np.int8),
        price=np.ones(n),
        qty=np.ones(n),
        notional=np.ones(n),
        origin=np.array(origin, np.int8),
        off_book=np.zeros(n, np.int8),
        row=np.arange(n),
    )


def test_freshness_and_age_are_of_live_ticks_alone() -> None:
    exchange = f"venue-{uuid.uuid4().hex}"
    flow = Flow(exchange)
    first = trades([100.0, 10.0], [100.5, 101.0], [LIVE, BACKLOG])
    flow.arrived([first, trades([101.0], [100.9], [LIVE])], [])
    flow.tell()
    assert told("last_event_timestamp_seconds", exchange, kind="trades") == 101.0
    assert told("last_arrival_timestamp_seconds", exchange, kind="trades") == 100.9
    flow.arrived([trades([5.0], [102.0], [BACKLOG])], [])  # nothing live: nothing changes
    flow.arrived([trades([99.0], [102.0], [LIVE])], [])  # late: the newest stays
    flow.tell()
    assert told("last_event_timestamp_seconds", exchange, kind="trades") == 101.0
    assert told("last_arrival_timestamp_seconds", exchange, kind="trades") == 102.0
    bucket = {
        bound: told("event_age_seconds_bucket", exchange, kind="trades", le=bound)
        for bound in ("0.0", "0.5", "2.5", "5.0", "+Inf")
    }
    assert bucket == {"0.0": 1, "0.5": 2, "2.5": 2, "5.0": 3, "+Inf": 3}
    assert not told("event_age_seconds_count", exchange, kind="quotes")


def test_connections_are_told_by_state() -> None:
    exchange = f"venue-{uuid.uuid4().hex}"
    connections(exchange, ["subscribed", "connecting", "subscribed"])
    connections(exchange, ["subscribed", "subscribing"])
    states = ("connecting", "subscribing", "subscribed")
    assert [told("connections", exchange, state=state) for state in states] == [0, 1, 1]


def test_what_rarely_happens_is_0_from_the_start() -> None:
    exchange = uuid.uuid4().hex
    begin(exchange)
    for name in ("trades_missing", "spool_failures", "append_failures", "subscriptions_given_up"):
        assert told(f"{name}_total", exchange) == 0
    for reason in ("back", "forward"):
        assert told("clock_steps_total", exchange, reason=reason) == 0
    assert told("connections", exchange, state="subscribed") == 0
