"""`perpflow run` as an operator meets it: ready when it is, gone in time with nothing lost, going
on at the next start, and one of two on a log."""

import time
from pathlib import Path

import httpx

from tests.end_to_end.deployment import deployment
from tests.end_to_end.processes import (
    logged_ticks,
    published,
    simulator,
    wait_until,
    write_settings,
)
from tests.end_to_end.test_kill import assert_every_logged_tick_once
from tests.end_to_end.test_operated import answers, assert_refused
from tests.publish.conftest import free_ports

SEED = 20261121
SPAN_S = 7
DEADLINE_S = 60.0
BUSY = {
    "binance-futures": ("BTCUSDT", "ETHUSDT"),
    "okx-perps": ("BTC-USDT-SWAP", "ETH-USDT-SWAP"),
    "hyperliquid-perps": ("BTC", "ETH"),
}


async def test_it_is_ready_stops_and_goes_on(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    port, api = free_ports(2)
    more = f'[api]\nport = {api}\nkeys = "{tmp_path}/keys.json"'
    config = write_settings(tmp_path, port, natives=BUSY, more=more)
    market = ("--seed", SEED, "--span", SPAN_S, "--intensity", 8, "--port", port)
    with deployment(config) as running:
        first = running.start("run", called="first")
        wait_until(lambda: answers(first), DEADLINE_S, "/healthz")
        assert not first.ready, "ready before there is a venue"
        # The market stands while nobody listens, and sends again what was sent just before.
        with simulator(*market, "--hold", "--streams", 12, "--resend", 5) as (venues, _):
            running.wait_ready(DEADLINE_S)
            bars = tmp_path / "bars"
            wait_until(lambda: published(bars, "ohlcv", "1s", "true"), DEADLINE_S, "files")
            assert catalog(api).status_code == 200
            print(f"stopped in {running.daemons.pop('first').stop():.1f} s")
            before = await identities(tmp_path / "perpflow.db")
            files = published(bars, "ohlcv", "1s", "true")
            again = running.start("run", called="again")
            running.wait_ready(DEADLINE_S)
            assert venues.stdout.readline().strip() == "end of feed"
            closing = time.monotonic() + 2
            wait_until(lambda: time.monotonic() > closing, 10, "the last windows close")
            again.stop()
    assert before
    assert before < await identities(tmp_path / "perpflow.db")
    after = published(bars, "ohlcv", "1s", "true")
    for symbol, rows in files.items():
        assert rows.items() <= after[symbol].items()
    await assert_every_logged_tick_once(tmp_path, symbols=6)


def catalog(port: int) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}/api/v1/metadata/catalog")


async def identities(log: Path) -> set[object]:
    trades, quotes, _ = await logged_ticks(log)
    return {tick["identity"] for tick in (*trades, *quotes)}


def test_of_two_on_a_log_one_goes_on(tmp_path: Path) -> None:
    """Under the same collector's id the second is refused, and the first is left alone; under
    another the second takes the log over."""
    print(f"seed {SEED}")
    with simulator("--seed", SEED) as (_, port):
        config = write_settings(tmp_path, port)
        with deployment(config) as running:
            first = running.start("run", called="first")
            running.wait_ready(DEADLINE_S)
            second = running.start("run", called="second")
            assert_refused(second, "another process collects [a-z-]+ as 'c1'")
            there = rows(tmp_path)
            wait_until(lambda: rows(tmp_path) > there, DEADLINE_S, "bars of the first")
            assert first.ready
            heir = running.start("run", "ingest.collector=c2", called="heir")
            assert_refused(first, "another perpflow has taken over the log")
            wait_until(lambda: heir.ready, DEADLINE_S, "the heir is ready")
            there = rows(tmp_path)
            wait_until(lambda: rows(tmp_path) > there, DEADLINE_S, "bars of the heir")
            heir.stop()


def rows(directory: Path) -> int:
    # Asserts that none is there twice.
    return sum(map(len, published(directory / "bars", "ohlcv", "1s", "true").values()))
