"""A real Prometheus watches a real deployment: every expression that we ship finds its data, and
each fault raises the alert that is meant for it, within its time, and no other.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.deploy.deployment import Deployment
from tests.deploy.queries import selectors, shipped
from tests.end_to_end.processes import wait_until
from tests.kafka.broker import Broker
from tests.publish.conftest import *  # noqa: F403 (the S3 server)

pytestmark = pytest.mark.xdist_group("kafka")
FACTOR = 15.0
SETTLE_S = 90.0
DATA_S = 40.0

EXPECTED_EMPTY = {
    "nothing could not be read, was refused or dropped": (
        "perpflow_frames_malformed_total",
        "perpflow_bars_malformed_total",
        "perpflow_stream_dropped_total",
        "perpflow_stream_rejected_total",
        'perpflow_api_requests_total{status=~"5.."}',
    ),
    "no trade came too late, and no connection had to be replaced": (
        'perpflow_aggregate_discarded_total{clock=~"exchange|both", kind="trades", '
        'reason=~"late|future|source_lagging|malformed_.*"}',
        "perpflow_connections_replaced_total",
    ),
    "no day is over": ("perpflow_audit_differences", "perpflow_audit_completeness_ratio"),
    "the archive is written every five minutes": (
        "perpflow_raw_last_flush_timestamp_seconds",
        "perpflow_archived_rows_total",
    ),
}
"""What may have no series after the faults."""
SELECTOR = re.compile(r"(?<![\w:])((?:perpflow[\w:]+|up)\b(?:\{[^}]*\})?)")
MAY_BE_EMPTY = {metric for metrics in EXPECTED_EMPTY.values() for metric in metrics}


@pytest.fixture
def deployment(
    kafka_broker: Broker,
    s3_bucket: str,
    s3_endpoint: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Deployment]:
    factor = getattr(request, "param", FACTOR)
    with Deployment(tmp_path, kafka_broker.servers, s3_bucket, s3_endpoint, factor) as running:
        settled(running)
        yield running


def settled(running: Deployment) -> None:
    """All is well, and bars are in files."""
    wrote = 'sum(perpflow_published_rows_total{job="publish"}) > 0'
    up = "count(up == 1) == 7"
    allowed = SETTLE_S if running.factor != 1 else 20 * 60
    wait_until(lambda: running.query(up) and running.query(wrote), allowed, "all processes")
    deadline = time.monotonic() + allowed
    while others := running.told(pending=True) - LINGERING:
        assert time.monotonic() < deadline, f"still told: {sorted(others)}"
        time.sleep(0.5)


def ask_the_api(running: Deployment) -> None:
    """What users do, well and badly."""
    symbols = running.api("/metadata/symbols", exchange="binance-futures")
    assert symbols.status_code == 200
    assert httpx.get(str(symbols.url), timeout=10).status_code == 401  # without the key
    assert running.api("/nowhere").status_code == 404
    with pytest.raises(InvalidStatus):
        connect(running.stream_url, additional_headers={"X-API-KEY": "wrong"})


def questions() -> dict[str, str]:
    """Expressions by where they are: of dashboards whole; of alerts, which find nothing when all is
    well, each selector."""
    found = {}
    for query in shipped():
        if query.panel is not None:
            if not {metric for metric, _ in selectors(query.expression)} & MAY_BE_EMPTY:
                found[query.where] = query.runnable("15s")
            continue
        for selector in SELECTOR.findall(query.expression):
            if not {selector, selector.split("{")[0]} & MAY_BE_EMPTY:
                found[f"{query.where}: {selector}"] = selector
    return found


def answered(running: Deployment) -> None:
    """Every question finds series. Raises AssertionError with those that don't."""
    open_questions = questions()
    assert len(open_questions) > 100
    deadline = time.monotonic() + DATA_S
    while True:
        ask_the_api(running)
        open_questions = {w: e for w, e in open_questions.items() if not running.query(e)}
        if not open_questions:
            return
        assert time.monotonic() < deadline, "\n".join(open_questions)
        time.sleep(0.5)


@dataclass(frozen=True)
class Fault:
    """`alerts`: all that is told of. `seconds`: from the fault to the alert, by the rules, with
    time as shipped and FACTOR times as fast."""

    name: str
    begin: Callable[[Deployment], None]
    end: Callable[[Deployment], None]
    alerts: frozenset[tuple[str, str]]
    seconds: tuple[float, float]


VENUE = Fault(
    "a venue is down",
    lambda d: d.venues("down okx-perps"),
    lambda d: d.venues("heal"),
    frozenset({("VenueStale", "okx-perps")}),
    (90, 12),
)
CHANNEL = Fault(
    "a channel is silent",
    lambda d: d.venues("silent binance-futures bookTicker"),
    lambda d: d.venues("heal"),
    frozenset({("ChannelSilent", "binance-futures quotes")}),
    (180, 16),
)
AGGREGATOR = Fault(
    "the aggregator is stopped",
    lambda d: d.stop("aggregate"),
    lambda d: d.start("aggregate"),
    frozenset({("JobDown", "aggregate")}),
    (75, 8),
)
STORE = Fault(
    "the store fails",
    lambda d: d.store.start_failing(),
    lambda d: d.store.stop_failing(),
    frozenset({("StoreFailing", "publish")}),
    (180, 20),
)
CLOCK = Fault(
    "a clock is stepped",
    lambda d: d.step_clock(0.3),
    lambda d: None,
    frozenset({("ClockStepped", "")}),
    (30, 5),
)
LINGERING = CLOCK.alerts
"""Is told for a while, as a step can't be ended."""


def raised(running: Deployment, faults: Sequence[Fault]) -> None:
    """The faults, all at once, raise their alerts in time. Raises AssertionError at any other."""
    names = " and ".join(fault.name for fault in faults)
    expected = frozenset[tuple[str, str]]().union(*(fault.alerts for fault in faults))
    real, fast = (max(fault.seconds[i] for fault in faults) for i in (0, 1))
    allowed = real + 60 if running.factor == 1 else 3 * fast + 15
    for fault in faults:
        fault.begin(running)
    began = time.monotonic()

    def told() -> bool:
        found = running.told()
        others = found - expected - LINGERING
        assert not others, f"{names}: {sorted(others)}"
        return expected <= found

    wait_until(told, allowed, f"{names}: {sorted(expected)}")
    print(f"{names}: told after {time.monotonic() - began:.1f} s")
    for fault in faults:
        fault.end(running)


@pytest.mark.nightly
def test_every_expression_finds_data_and_each_fault_raises_its_alert(
    deployment: Deployment,
) -> None:
    raised(deployment, [AGGREGATOR])
    settled(deployment)
    raised(deployment, [STORE, CLOCK])
    settled(deployment)
    raised(deployment, [VENUE, CHANNEL])
    answered(deployment)  # now that there was something to count of failures, too


@pytest.mark.nightly
@pytest.mark.parametrize("deployment", [1.0], indirect=True)
def test_with_the_rules_as_they_are_shipped(deployment: Deployment) -> None:
    for fault in (VENUE, CHANNEL, AGGREGATOR, STORE, CLOCK):
        raised(deployment, [fault])
        settled(deployment)
