"""What an audit found: as JSON, and as the exit code that scripts go by."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import orjson

from ingest.ticks import FUTURE_NS
from publish.audit.causes import CAUSES, Cause, Explained
from publish.audit.latency import Latencies
from publish.audit.unit import UnitReport
from publish.layout import Series

EQUAL, DIFFERS, DEFECT = 0, 3, 4
"""Exit codes: all is as the ticks give it, or was repaired; bars differ for known reasons; some for
none that is known. Others are those of any command."""
QUANTILES = (0.5, 0.9, 0.99, 0.999)
OFFSET_QUANTILE = 0.001
"""The fastest ticks: what they took is the wire and how far the clocks are apart."""
KINDS = ("trades", "quotes")


@dataclass(slots=True)
class AuditReport:
    """`waiting`: days that were left out, and why; `seconds`: how long it took."""

    wanted: str
    units: list[UnitReport] = field(default_factory=list)
    waiting: Mapping[str, set[date]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        causes = self.causes()
        if causes[Cause.OTHER]:
            return DEFECT
        left = any(len(unit.differences) > len(unit.repaired) for unit in self.units)
        return DIFFERS if left else EQUAL

    def causes(self) -> Counter[Cause]:
        return sum((unit.causes() for unit in self.units), Counter())

    @property
    def bars(self) -> int:
        """How many were compared."""
        return sum(unit.bars for unit in self.units)

    def json(self) -> bytes:
        """See docs/audit.md for the fields."""
        found = {
            "audited": self.wanted,
            "result": {EQUAL: "equal", DIFFERS: "differs", DEFECT: "defect"}[self.exit_code],
            "bars": self.bars,
            "differences": {cause.value: self.causes()[cause] for cause in CAUSES},
            "waiting": {why: sorted(map(str, days)) for why, days in self.waiting.items()},
            "seconds": round(self.seconds, 3),
            "instruments": [_unit(unit) for unit in self.units],
        }
        return orjson.dumps(found, option=orjson.OPT_INDENT_2)


def _unit(unit: UnitReport) -> dict[str, Any]:
    complete = unit.completeness
    return {
        "exchange": unit.unit.live.exchange,
        "symbol": unit.unit.live.symbol,
        "days": [str(day) for day in unit.unit.days],
        "ticks": {kind: _ticks(unit, kind) for kind in KINDS},
        "completeness": {
            "share": complete.share,
            **{
                name: getattr(complete, name)
                for name in ("expected", "received", "healed", "missing", "unrecorded")
            },
            "gaps_of_unknown_size": complete.unknown_gaps,
        },
        "gaps": [_gap(gap) for gap in unit.gaps],
        "bars": unit.bars,
        "differences": [
            line for of in unit.differences for line in _differences(*of, unit.repaired)
        ],
    }


def _ticks(unit: UnitReport, kind: str) -> dict[str, Any]:
    account = unit.ticks
    late = {why: n for (of, why), n in account.late.items() if of == kind and n}
    return {
        "rows": account.rows[kind],
        "of_the_month": {"rows": unit.read[kind], "duplicates": unit.duplicates[kind]},
        "late": late,
        "late_share": late_share(unit, kind),
        f"ahead_by_more_than_{FUTURE_NS // 10**9}s": account.future[kind],
        **({"off_book": account.off_book} if kind == "trades" else {}),
        "latency_ms": {
            f"p{100 * q:g}": milliseconds(account.latencies.get(kind), q) for q in QUANTILES
        },
        "clock_offset_ms": milliseconds(account.latencies.get(kind), OFFSET_QUANTILE),
    }


def late_share(unit: UnitReport, kind: str) -> float | None:
    """Of all ticks of a kind, those that came too late for their exchange bar."""
    rows = unit.ticks.rows[kind]
    late = sum(n for (of, _), n in unit.ticks.late.items() if of == kind)
    return late / rows if rows else None


def milliseconds(of: Latencies | None, q: float) -> float | None:
    found = None if of is None else of.quantile(q)
    return None if found is None else round(found / 1e6, 3)


def _gap(gap: Mapping[str, Any]) -> dict[str, Any]:
    """Times are when the last tick before was made, and when the first after arrived."""
    names = ("kind", "first_missing", "last_missing", "missing", "healed", "reason")
    times = {"after": gap["exchange_timestamp"], "found": gap["local_timestamp"]}
    return {**{of: _time(ns) for of, ns in times.items()}, **{name: gap[name] for name in names}}


def _differences(
    series: Series, day: date, explained: Explained, repaired: Sequence[tuple[Series, date]]
) -> list[dict[str, Any]]:
    """A line a cause: how many bars, the first and the last."""
    lines = []
    for code in np.unique(explained.cause).tolist():
        start = explained.start[explained.cause == code]
        about = {
            "dataset": series.dataset,
            "interval": series.interval,
            "clock": series.clock,
            "day": str(day),
            "cause": CAUSES[code].value,
            "bars": len(start),
            "first": _time(int(start[0]) * 1000),
            "last": _time(int(start[-1]) * 1000),
            "repaired": (series, day) in repaired,
        }
        lines.append(about)
    return lines


def _time(ns: int) -> str:
    """ "2026-11-21T10:00:00.123Z"."""
    return f"{np.datetime64(ns // 1_000_000, 'ms')}Z"
