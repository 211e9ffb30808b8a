"""publish/logs.py: JSON lines when nobody watches, from our loggers and the libraries' alike."""

import os
import pty
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


def test_a_traceback_on_a_terminal_shows_no_secrets() -> None:
    watched, stderr = pty.openpty()
    program = PROGRAM.replace("1 / 0", "password = 'correct' + '-horse'; 1 / 0")
    subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], stderr=stderr, check=True
    )
    os.close(stderr)
    shown = b""
    while chunk := _read(watched):
        shown += chunk
    os.close(watched)
    assert b"ZeroDivisionError" in shown
    assert b"correct-horse" not in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # the other end is closed
        return b""
