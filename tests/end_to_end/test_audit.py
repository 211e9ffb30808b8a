"""`perpflow audit` as a process: its numbers are the simulator's; its exit codes; the daemon."""

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ingest import feed as feeds
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.watchdog import Watchdog
from publish.audit.published import read_day
from publish.audit.report import KINDS
from publish.layout import Series
from publish.partitions import write_month
from publish.store import Store
from tests.end_to_end.audited_day import Day, keys_of, known, yesterday
from tests.end_to_end.processes import wait_until
from tests.publish.test_health import free_port


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    with pytest.MonkeyPatch.context() as patch:
        # The market is over before its gaps are healed: that is no reason to subscribe anew.
        patch.setattr(feeds, "Watchdog", lambda: Watchdog(600.0, 600.0, 600.0))
        return asyncio.run(yesterday(tmp_path_factory.mktemp("audited")))


def audit(day: Day, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perpflow", "audit", "--processes", "1"]
    store = ("--set", f"publish.url={day.store.url}")
    return subprocess.run([*command, *store, *options], capture_output=True, text=True, timeout=120)


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
    late = [of["ticks"][kind]["late"].get("late", 0) for of in told.values() for kind in KINDS]
    assert sum(late) > 50, late
    for bars in (line for of in told.values() for line in of["differences"]):
        assert bars["cause"] in ("late", "healed", "toxicity")
        assert bars["clock"] == "exchange"


def assert_ticks(day: Day, exchange: str, native: str, told: dict[str, Any]) -> None:
    for kind, key in keys_of(exchange, native).items():
        want, mine = known(day.faults, exchange, key), told["ticks"][kind]
        more = mine["rows"] - want.rows
        copies = want.copies
        if (exchange, kind) == (HYPERLIQUID, "trades"):  # the fills before the market's start
            assert 0 < more <= 30
        elif (exchange, kind) == (BINANCE, "trades"):
            assert more == sum(gap["healed"] for gap in told["gaps"]) > 0
            # Of what was held back the copy that was healed came first.
            copies += more - told["completeness"]["healed"]
        else:
            assert more == 0
        assert mine["of_the_month"] == {"rows": mine["rows"], "duplicates": copies}
        assert copies > 0
        assert mine["late"].get("late", 0) == want.late, (exchange, kind)
        assert mine["late_share"] == pytest.approx(sum(mine["late"].values()) / mine["rows"])


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


def test_repairing_makes_the_next_audit_find_nothing(day: Day, tmp_path: Path) -> None:
    mine = Day(day.day, Store(f"file://{tmp_path}/bars"), day.faults, day.ledgers, day.symbols)
    shutil.copytree(str(day.store.path("")), tmp_path / "bars")
    repaired = audit(mine, "--day", str(day.day), "--repair")
    assert repaired.returncode == 0
    assert "repaired" in repaired.stdout
    again = audit(mine, "--day", str(day.day), "--exchange", OKX)
    assert again.returncode == 0
    assert "0 differ" in again.stdout
    assert BINANCE not in again.stdout


def test_a_bar_that_no_rule_gives_is_a_defect_and_is_left_alone(day: Day, tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/bars")
    shutil.copytree(str(day.store.path("")), tmp_path / "bars")
    symbol = next(s for e, s in day.symbols if e == BINANCE)
    series = Series("ohlcv", BINANCE, symbol, "15s", "true")
    rows = read_day(store, series, day.day)
    high = rows["high"].to_numpy().copy()
    high[1] += 1.0
    wrong = rows.set_column(rows.column_names.index("high"), "high", pa.array(high))
    write_month(store, series, wrong, [str(day.day)])
    mine = Day(day.day, store, day.faults, day.ledgers, day.symbols)
    options = ("--symbol", symbol, "--repair", "--json", str(tmp_path / "found.json"))
    assert audit(mine, "--day", str(day.day), *options).returncode == 4
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["result"] == "defect"
    (line,) = (
        line
        for of in found["instruments"]
        for line in of["differences"]
        if line["cause"] == "other"
    )
    assert (line["dataset"], line["interval"], line["clock"]) == ("ohlcv", "15s", "true")
    assert (line["bars"], line["repaired"]) == (1, False)
    assert read_day(store, series, day.day).equals(wrong)


def test_the_daemon_audits_what_is_due_tells_it_and_stops(day: Day, tmp_path: Path) -> None:
    shutil.copytree(str(day.store.path("")), tmp_path / "bars")
    port, report = free_port(), tmp_path / "audit.json"
    url = f"http://127.0.0.1:{port}"
    settings = (
        f"publish.url=file://{tmp_path}/bars", f"metrics.port={port}", "audit.repair=true",
        "audit.settle=1m",
    )  # fmt: skip
    options = [text for value in settings for text in ("--set", value)]
    command = [sys.executable, "-m", "perpflow", "audit", "--watch", "--json", str(report)]
    with (tmp_path / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen([*command, *options], stdout=log, stderr=log)
    try:
        wait_until(lambda: status(f"{url}/healthz") == 200, 60, "alive")
        wait_until(lambda: status(f"{url}/readyz") == 200, 120, "the audit of yesterday")
        assert json.loads(report.read_text())["result"] == "equal"
        numbers = scrape(port)
        for exchange in {e for e, _ in day.symbols}:
            assert numbers["perpflow_audit_bars", exchange] > 100
            assert numbers["perpflow_audit_repaired_total", exchange] > 0
        assert numbers["perpflow_audit_completeness_ratio", BINANCE] == 1.0
        assert 0.5 < numbers["perpflow_audit_completeness_lowest_ratio", OKX] < 1.0
        assert numbers["perpflow_audit_missing_trades", OKX] > 0
        asked = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(15) == 0
        assert time.monotonic() - asked < 10
    finally:
        daemon.kill()
        daemon.wait()


def test_the_daemon_stops_in_the_middle_of_an_audit(day: Day) -> None:
    port = free_port()
    command = [sys.executable, "-m", "perpflow", "audit", "--watch"]
    for value in (f"publish.url={day.store.url}", f"metrics.port={port}", "audit.settle=1m"):
        command += ["--set", value]
    daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # One is multiprocessing's own.
        wait_until(lambda: len(children_of(daemon.pid)) > 1, 60, "its processes")
        children = children_of(daemon.pid)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(15) == 0
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 10, "gone")
    finally:
        daemon.kill()
        daemon.wait()


def children_of(pid: int) -> list[int]:
    """Whichever thread started them."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def status(url: str) -> int:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url).status_code
    return 0


def scrape(port: int) -> dict[tuple[str, str], float]:
    """The last sample of each metric and exchange."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text
    return {
        (sample.name, sample.labels["exchange"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "exchange" in sample.labels
    }
