"""What an audit found, as exit code, JSON and tables."""

from collections import Counter
from datetime import date
from io import StringIO

import numpy as np
import orjson
import pytest
from rich.console import Console

from aggregate.shard import Rules
from ingest.instruments import HYPERLIQUID, OKX
from publish.audit.accounts import Completeness, TickAccount
from publish.audit.causes import CAUSES, Cause, Explained
from publish.audit.report import DEFECT, DIFFERS, EQUAL, AuditReport
from publish.audit.table import tables, timeline
from publish.audit.unit import AuditUnit, UnitReport
from publish.layout import Series
from publish.replay.month import MonthUnit
from publish.replay.ticks_in import Area
from publish.settings import PublishSettings
from tests.publish.audit.ticks import NS, START, quotes, trades

DAY = date(2025, 11, 1)
SYMBOL = "perpetual-BTC-USDT:USDT"
FLOW = Series("flow", OKX, SYMBOL, "1s", "exchange")
AREA = Area(PublishSettings(url="file:///nowhere"))


def unit(
    *causes: Cause, repaired: bool = False, exchange: str = OKX, unknown: bool = False
) -> UnitReport:
    """Of a day with six trades, one of them late, and a quote."""
    ticks = TickAccount(exchange, START, START + 24 * NS, 5 * NS)
    ticks.add(trades([1, 2, 3, 5, 6, 7], [1, 2, 3, 4, 5, 6], latency=[0.01] * 5 + [9.0]))
    ticks.add(quotes([1.0], latency=-0.002))
    live = MonthUnit(AREA, exchange, SYMBOL, 2025, 11, Rules())
    gap = {
        "exchange_timestamp": START + 3 * NS, "local_timestamp": START + 4 * NS, "kind": "ids",
        "first_missing": 4, "last_missing": 4, "missing": 1, "healed": 0, "reason": "sequence",
    }  # fmt: skip
    complete = Completeness(None, 0, 0, 0, 0, 1) if unknown else Completeness(7, 6, 0, 1, 0, 0)
    codes = np.array([CAUSES.index(cause) for cause in causes], np.int8)
    start = (START // 1000) + 1_000_000 * np.arange(len(causes))
    return UnitReport(
        AuditUnit(live, (DAY,)),
        ticks,
        complete,
        [gap],
        read=Counter(trades=10, quotes=1),
        duplicates=Counter(trades=2),
        bars=1234,
        differences=[(FLOW, DAY, Explained(start, codes))] if causes else [],
        repaired=[(FLOW, DAY)] if repaired else [],
    )


@pytest.mark.parametrize(
    ("units", "code", "result"),
    [
        ([unit()], EQUAL, "equal"),
        ([unit(), unit(Cause.LATE)], DIFFERS, "differs"),
        ([unit(Cause.LATE, repaired=True), unit()], EQUAL, "equal"),
        ([unit(Cause.LATE, repaired=True), unit(Cause.TOXICITY)], DIFFERS, "differs"),
        ([unit(Cause.LATE, repaired=True), unit(Cause.OTHER)], DEFECT, "defect"),
    ],
)
def test_the_exit_code(units: list[UnitReport], code: int, result: str) -> None:
    report = AuditReport("2025-11", units)
    assert report.exit_code == code
    assert orjson.loads(report.json())["result"] == result


def test_the_json_has_every_number() -> None:
    causes = (Cause.LATE, Cause.TOXICITY, Cause.TOXICITY)
    report = AuditReport("2025-11", [unit(*causes)], {"is not over": {DAY}}, seconds=1.5)
    found = orjson.loads(report.json())
    assert found["differences"] == {
        "other": 0, "toxicity": 2, "late": 1, "healed": 0, "lagging": 0
    }  # fmt: skip
    assert (found["bars"], found["seconds"]) == (1234, 1.5)
    assert found["waiting"] == {"is not over": ["2025-11-01"]}
    (mine,) = found["instruments"]
    assert (mine["exchange"], mine["symbol"], mine["days"]) == (OKX, SYMBOL, ["2025-11-01"])
    ticks = mine["ticks"]["trades"]
    assert (ticks["rows"], ticks["late"]) == (6, {"late": 1})
    assert ticks["of_the_month"] == {"rows": 10, "duplicates": 2}
    assert ticks["late_share"] == pytest.approx(1 / 6)
    assert ticks["latency_ms"]["p50"] == pytest.approx(10, rel=0.01)
    assert ticks["latency_ms"]["p99"] == pytest.approx(9000, rel=0.01)
    assert mine["ticks"]["quotes"]["clock_offset_ms"] == pytest.approx(-2, rel=0.01)
    assert mine["completeness"]["share"] == pytest.approx(6 / 7)
    assert mine["gaps"][0]["after"] == "2025-11-01T12:26:43.000Z"
    late, toxicity = sorted(mine["differences"], key=lambda line: line["bars"])
    assert (late["cause"], late["bars"], late["first"]) == ("late", 1, "2025-11-01T12:26:40.000Z")
    assert (toxicity["cause"], toxicity["bars"]) == ("toxicity", 2)
    assert toxicity["last"] == "2025-11-01T12:26:42.000Z"
    assert not late["repaired"]


def shown(report: AuditReport) -> list[str]:
    out = StringIO()
    Console(file=out, width=140).print(tables(report))
    return out.getvalue().splitlines()


def test_the_tables_tell_the_same() -> None:
    units = [unit(Cause.LATE, repaired=True), unit(exchange=HYPERLIQUID, unknown=True)]
    lines = shown(AuditReport("2025-11", units, {"is not over": {DAY}}, seconds=1.5))
    ticks = [line.split() for line in lines if " trades " in line]
    assert ticks[0][:6] == [OKX, "BTC-USDT:USDT", "trades", "85.7143%", "1", "20.00%"]
    assert ticks[0][6:10] == ["16.67%", "10.0", "9,059.7", "10.0"]
    assert ticks[1][:4] == [HYPERLIQUID, "BTC-USDT:USDT", "trades", "unknown"]
    bars = [line.split() for line in lines if "1,234" in line and "BTC" in line]
    assert bars[0] == [OKX, "BTC-USDT:USDT", "1,234", "1", "·", "·", "·", "·", "1"]
    assert lines[-2] == "not audited: 2025-11-01 is not over"
    assert lines[-1] == "2,468 bars of 2 instruments, 1 differ: repaired (1.5 s)"


@pytest.mark.parametrize(
    ("cause", "told"),
    [(Cause.LATE, "for known reasons"), (Cause.OTHER, "SOME FOR NO KNOWN REASON")],
)
def test_the_last_line_says_what_is_left(cause: Cause, told: str) -> None:
    assert shown(AuditReport("2025-11", [unit(cause)]))[-1].endswith(f"1 differ: {told} (0.0 s)")


def test_gaps_are_blocks_in_time() -> None:
    one = unit()
    assert timeline(one) == "   █" + " " * 20
    more = dict(one.gaps[0], exchange_timestamp=START + 20 * NS, first_missing=8, last_missing=15)
    unknown = dict(more, exchange_timestamp=START - NS, first_missing=None)
    one.gaps += [more, unknown]
    assert timeline(one) == "?  ▁" + " " * 16 + "█   "
