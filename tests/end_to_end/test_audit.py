"""`perpflow audit` as processes: its numbers against the simulator's, its exit codes, the daemon."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ingest.instruments import BINANCE, HYPERLIQUID
from publish.store import Store
from tests.end_to_end.audited_day import Day, keys_of, known, yesterday
from tests.end_to_end.processes import wait_until
from tests.publish.test_health import free_port


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    return asyncio.run(yesterday(tmp_path_factory.mktemp("audited")))


def audit(day: Day, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perpflow", "audit", "--set", f"publish.url={day.store.url}"]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)


def test_its_numbers_are_the_simulators(day: Day, tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    done = audit(day, "--month", f"{day.day:%Y-%m}", "--json", str(path))
    assert done.returncode == 3, (done.stdout, done.stderr)
    found = json.loads(path.read_text())
    assert found["result"] == "differs"
    assert found["differences"]["other"] == found["differences"]["lagging"] == 0
    assert found["differences"]["late"] > 0
    told = {(of["exchange"], of["symbol"]): of for of in found["instruments"]}
    assert set(told) == set(day.symbols)
    for (exchange, symbol), native in day.symbols.items():
        assert_ticks(day, exchange, native, told[exchange, symbol])
        assert_completeness(day, exchange, native, told[exchange, symbol]["completeness"])
        assert symbol.removeprefix("perpetual-") in done.stdout
    for bars in (line for of in told.values() for line in of["differences"]):
        assert bars["cause"] in ("late", "healed", "toxicity")
        assert bars["clock"] == "exchange"


def assert_ticks(day: Day, exchange: str, native: str, told: dict[str, Any]) -> None:
    healed = told["completeness"]["healed"]
    for kind, key in keys_of(exchange, native).items():
        want, mine = known(day.faults, exchange, key), told["ticks"][kind]
        backlog = 0
        if kind == "trades" and exchange == HYPERLIQUID:  # the fills before the market's start
            backlog = mine["rows"] - want.rows
            assert 0 < backlog <= 30
        more = backlog + (mine["rows"] - backlog - want.rows)
        assert mine["late"].get("late", 0) == want.late > 0, (exchange, kind)
        if kind == "quotes" or exchange != BINANCE:
            assert more == backlog
            assert mine["duplicates"] == want.copies > 0, (exchange, kind)
        else:  # what was healed before its late original came is a copy too
            assert more >= healed
            assert mine["duplicates"] == want.copies + more - healed
        late = sum(mine["late"].values()) / mine["rows"]
        assert mine["late_share"] == pytest.approx(late)


def assert_completeness(day: Day, exchange: str, native: str, told: dict[str, Any]) -> None:
    made = day.ledgers[exchange, native]
    sent = known(day.faults, exchange, keys_of(exchange, native)["trades"]).ids
    if exchange == HYPERLIQUID:
        assert told["expected"] is told["share"] is None
        return
    inside = (made.id >= sent[0]) & (made.id <= sent[-1])
    lost = inside & ~np.isin(made.id, sent)
    assert lost.any()
    assert told["received"] == len(sent)
    assert told["unrecorded"] == told["gaps_of_unknown_size"] == 0
    healed = int((lost & made.market).sum()) if exchange == BINANCE else 0
    missing = 0 if exchange == BINANCE else int(lost.sum())
    assert (told["healed"], told["missing"]) == (healed, missing)
    assert told["expected"] == len(sent) + healed + missing
    assert told["share"] == pytest.approx((len(sent) + healed) / told["expected"])
