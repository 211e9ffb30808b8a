"""A real Prometheus watches a real deployment: every expression that we ship finds its data, and
each fault raises the alert that is meant for it, within its time, and no other.
"""

import re
import time
from collections.abc import Callable, Iterator
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
    "nothing was lost, refused, unreadable or failed": (
        "perpflow_channel_silent_total",
        "perpflow_connections_lost_total",
        "perpflow_connections_replaced_total",
        "perpflow_frames_malformed_total",
        "perpflow_bars_malformed_total",
        "perpflow_gaps_total",
        "perpflow_gaps_closed_total",
        "perpflow_history_requests_total",
        "perpflow_history_weight_total",
        "perpflow_store_operation_errors_total",
        "perpflow_stream_dropped_total",
        "perpflow_stream_rejected_total",
        'perpflow_api_requests_total{status=~"5.."}',
    ),
    "no day is over": ("perpflow_audit_differences", "perpflow_audit_completeness_ratio"),
    "the archive is written every five minutes, the venues' clocks are asked now and then": (
        "perpflow_raw_last_flush_timestamp_seconds",
        "perpflow_archived_rows_total",
    ),
}
"""Of a deployment that has been well for half a minute: what may have no series."""
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
    wait_until(lambda: not running.told(), allowed, "no alert")


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


FAULTS = [
    Fault(
        "a venue is down",
        lambda d: d.venues("down okx-perps"),
        lambda d: d.venues("heal"),
        frozenset({("VenueStale", "okx-perps")}),
        (90, 12),
    ),
    Fault(
        "a channel is silent",
        lambda d: d.venues("silent binance-futures bookTicker"),
        lambda d: d.venues("heal"),
        frozenset({("ChannelSilent", "binance-futures quotes")}),
        (180, 16),
    ),
    Fault(
        "the aggregator is stopped",
        lambda d: d.stop("aggregate"),
        lambda d: d.start("aggregate"),
        frozenset({("JobDown", "aggregate")}),
        (75, 8),
    ),
    Fault(
        "the store fails",
        lambda d: d.store.start_failing(),
        lambda d: d.store.stop_failing(),
        frozenset({("StoreFailing", "publish")}),
        (180, 20),
    ),
    Fault(
        "a clock is stepped",
        lambda d: d.step_clock(0.3),
        lambda d: None,
        frozenset({("ClockStepped", "")}),
        (30, 5),
    ),
]


def raised(running: Deployment, fault: Fault) -> float:
    """Seconds until the fault's alerts are told. Raises AssertionError at any other."""
    allowed = fault.seconds[0] + 60 if running.factor == 1 else 3 * fault.seconds[1] + 15
    fault.begin(running)
    began = time.monotonic()

    def told() -> bool:
        found = running.told()
        assert found <= fault.alerts, f"{fault.name}: {sorted(found - fault.alerts)}"
        return found == fault.alerts

    wait_until(told, allowed, f"{fault.name}: {sorted(fault.alerts)}")
    return time.monotonic() - began


def all_faults(running: Deployment) -> None:
    for fault in FAULTS:
        print(f"{fault.name}: told after {raised(running, fault):.1f} s")
        fault.end(running)
        if fault is not FAULTS[-1]:
            settled(running)


def test_every_expression_finds_data_and_each_fault_raises_its_alert(
    deployment: Deployment,
) -> None:
    answered(deployment)
    all_faults(deployment)


@pytest.mark.nightly
@pytest.mark.parametrize("deployment", [1.0], indirect=True)
def test_with_the_rules_as_they_are_shipped(deployment: Deployment) -> None:
    all_faults(deployment)
