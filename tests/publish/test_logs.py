"""publish/logs.py: JSON lines when nobody watches, from our loggers and the libraries' alike."""

import subprocess
import sys
from pathlib import Path

import orjson

PROGRAM = """
import logging, structlog
early = structlog.get_logger("ingest.early")
from publish.logs import configure_logs
configure_logs()
early.info("made before configuring", exchange="okx-perps")
logging.getLogger("some.library").warning("of a library: %s", 1)
logging.getLogger("httpx").info("not wanted")
try:
    1 / 0
except ZeroDivisionError:
    early.exception("failed")
"""


def test_every_line_is_json_on_stderr() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
    )
    assert result.stdout == b""
    first, second, third = map(orjson.loads, result.stderr.splitlines())
    assert first["event"] == "made before configuring"
    assert first["exchange"] == "okx-perps"
    assert first["level"] == "info"
    assert first["timestamp"].endswith("Z")
    assert second["event"] == "of a library: 1"
    assert "ZeroDivisionError" in third["exception"]
