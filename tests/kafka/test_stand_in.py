"""Without Java the log's tests run on the stand-in; `NOIDA_CANNOT` names what is beyond it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/ingest/test_log_contract.py",
    "tests/ingest/test_log_contract_owners.py",
    "tests/ingest/test_log_kafka.py",
    "tests/kafka",
)


@pytest.mark.nightly
def test_the_log_s_tests_pass_on_the_stand_in() -> None:
    environment = {**os.environ, "PATH": str(Path(sys.executable).parent)}
    for name in ("CI", "PERPFLOW_TEST_KAFKA", "PYTEST_XDIST_WORKER"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rxX", "-m", "not nightly", *TESTS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "XPASS" not in done.stdout, "NOIDA_CANNOT names what it can do"
