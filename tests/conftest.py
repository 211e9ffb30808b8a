"""With CI=true a skip is a failure, unless it is for the recordings beside the repository."""

import os
from collections.abc import Generator
from typing import Any

import pytest

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
