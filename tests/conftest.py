"""What all tests share: CI's rule for skips, and the Kafka broker.

With CI=true a skip is a failure, unless it is for the recordings beside the repository.
"""

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.kafka.broker import NOIDA_CANNOT, Broker, NoBroker, NoidaKafka, running

ALLOWED = "shared/data"


def _forbid_skip(report: Any) -> Any:
    reason = str(report.longrepr)
    if (
        os.environ.get("CI") == "true"
        and report.skipped
        and not hasattr(report, "wasxfail")
        and ALLOWED not in reason
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where every part must be present: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _forbid_skip((yield))  # type: ignore[no-any-return]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _forbid_skip((yield))  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all tests of a process; they keep apart by the prefix of their topics.

    Tests that use it belong in `xdist_group("kafka")`, so that only one is started.
    """
    try:
        with running(tmp_path_factory.mktemp("kafka")) as broker:
            yield broker
    except NoBroker as error:
        pytest.skip(str(error))


@pytest.fixture
def kafka(kafka_broker: Broker, request: pytest.FixtureRequest) -> Broker:
    """The broker, for a test; with the stand-in, tests that are beyond it are expected to fail."""
    name = request.node.originalname
    if isinstance(kafka_broker, NoidaKafka) and name in NOIDA_CANNOT:
        request.applymarker(pytest.mark.xfail(reason=NOIDA_CANNOT[name]))
    return kafka_broker


@pytest.fixture(autouse=True)
def stops_are_not_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that is stopped in this process writes all it has read, however busy the machine
    is; what a stop that takes too long leaves is tested by itself (tests/publish/test_retries.py).
    """
    monkeypatch.setattr("publish.retries.STOP_S", 120.0)
