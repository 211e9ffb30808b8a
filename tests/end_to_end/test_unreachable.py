"""`perpflow run` where nothing can be reached: one readable line for each, and it keeps trying."""

import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import orjson

from ingest.instrument_cache import cache_path, save
from ingest.instruments import BINANCE, HYPERLIQUID, OKX, Instrument, Listed, instrument_by_name
from ingest.universe import InstrumentList
from tests.end_to_end.processes import wait_until
from tests.ingest.test_unreachable import hanging, refusing, timing_out

DEADLINE_S = 40.0
VENUES = {
    BINANCE: ("BTCUSDT", refusing, "Connection refused"),
    OKX: ("BTC-USDT-SWAP", hanging, "no answer in 10 s"),
    HYPERLIQUID: ("BTC", timing_out, "no answer in 10 s"),
}


def told(stderr: Path) -> list[dict[str, object]]:
    """The log lines so far; each is one JSON object."""
    whole = stderr.read_bytes().rpartition(b"\n")[0]
    return [orjson.loads(line) for line in whole.splitlines()]


def keep_instruments(log: Path, exchange: str, native: str, rest_url: str) -> None:
    """As a collector that ran before left them."""
    known = instrument_by_name(exchange, native)
    listed = known or Instrument(exchange, native, "perpetual-BTC-USDT:USDT", 0.01)
    status = {BINANCE: "TRADING", OKX: "live", HYPERLIQUID: "listed"}[exchange]
    found = InstrumentList(exchange, rest_url, ("",), 1, (Listed(listed, status),))
    save(cache_path(log, exchange), found)


def test_each_venue_is_told_once_and_tried_on(tmp_path: Path) -> None:
    log, stderr = tmp_path / "perpflow.db", tmp_path / "stderr"
    settings = [f"log.path={log}", f"publish.url=file://{tmp_path}/out"]
    with ExitStack() as stack, stderr.open("wb") as out:
        rest_url = f"http://127.0.0.1:{stack.enter_context(refusing())}"
        for exchange, (native, address, _) in VENUES.items():
            port = stack.enter_context(address())
            keep_instruments(log, exchange, native, rest_url)
            settings += [
                f"venues.{exchange}.symbols={native}",
                f"venues.{exchange}.ws_url=ws://127.0.0.1:{port}",
                f"venues.{exchange}.rest_url={rest_url}",
            ]
        command = [sys.executable, "-m", "perpflow", "run"]
        process = subprocess.Popen(
            [*command, *(word for s in settings for word in ("--set", s))],
            stderr=out,
            cwd=Path(__file__).parents[2],
        )
        stack.callback(process.kill)

        def unreached() -> list[dict[str, object]]:
            return [e for e in told(stderr) if e["event"] == "not connected, trying again"]

        wait_until(lambda: len(unreached()) >= len(VENUES), DEADLINE_S, "a line for each venue")
        seen = {e["exchange"]: str(e["reason"]) for e in unreached()}
        for exchange, (_, _, reason) in VENUES.items():
            assert seen[exchange].startswith("can't connect to ws://127.0.0.1:")
            assert seen[exchange].endswith(reason)
        time.sleep(2.0)  # lines that shouldn't come: there are several more attempts meanwhile
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    lines = told(stderr)
    counts = Counter((e["event"], e["exchange"]) for e in lines if "exchange" in e)
    assert set(counts.values()) == {1}  # REST, the copy it started with, the websocket
    assert len(counts) == 3 * len(VENUES)
    assert b"Traceback" not in stderr.read_bytes()


def test_a_log_that_is_down_is_told_once_and_waited_for(tmp_path: Path) -> None:
    stderr = tmp_path / "stderr"
    with refusing() as port, stderr.open("wb") as out:
        settings = [
            f"log.path={tmp_path}/perpflow.db",
            f"log.kafka.servers=127.0.0.1:{port}",
            f"publish.url=file://{tmp_path}/out",
            f"venues.{BINANCE}.symbols=BTCUSDT",
        ]
        command = [sys.executable, "-m", "perpflow", "run"]
        process = subprocess.Popen(
            [*command, *(word for s in settings for word in ("--set", s))],
            stderr=out,
            cwd=Path(__file__).parents[2],
        )
        try:
            wait_until(lambda: told(stderr), DEADLINE_S, "a line")
            time.sleep(2.0)  # more attempts, and no more lines
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
    (line,) = told(stderr)
    assert line["event"] == "the log can't be reached, trying again"
    assert f"127.0.0.1:{port}" in str(line["reason"])
    assert "connection refused" in str(line["reason"])
