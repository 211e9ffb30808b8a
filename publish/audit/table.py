"""What an audit found, for a person: a table of the ticks, a table of the bars, and a last line."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from publish.audit.causes import Cause
from publish.audit.report import (
    DEFECT,
    DIFFERS,
    KINDS,
    OFFSET_QUANTILE,
    AuditReport,
    late_share,
    milliseconds,
)
from publish.audit.unit import UnitReport

_CELLS = 24
_BLOCKS = " ▁▂▃▄▅▆▇█"


def tables(report: AuditReport) -> RenderableType:
    """Everything but the JSON's lists."""
    parts: list[RenderableType] = []
    if report.units:
        parts = [_ticks(report), Text(), _bars(report), Text()]
    return Group(*parts, *_lines(report))


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _ticks(report: AuditReport) -> Table:
    right = ("complete", "missing", "copies", "late", "p50 ms", "p99 ms", "offset ms")
    table = _table(f"Ticks of {report.wanted}", ("venue", "symbol", ""), right)
    table.add_column("gaps over time", no_wrap=True)
    for venue, symbol, unit in _named(report.units):
        complete = unit.completeness
        share = "unknown" if complete.share is None else f"{complete.share:.4%}"
        missing = "" if complete.share is None else f"{complete.missing:,}"
        for kind in KINDS:
            latencies = unit.ticks.latencies.get(kind)
            first = kind == KINDS[0]
            table.add_row(
                *((venue, symbol) if first else ("", "")),
                kind,
                *((share, missing) if first else ("", "")),
                _share(unit.duplicates[kind], unit.read[kind]),
                _percent(late_share(unit, kind)),
                *(_number(milliseconds(latencies, q)) for q in (0.5, 0.99, OFFSET_QUANTILE)),
                timeline(unit) if first else "",
            )
    return table


def _bars(report: AuditReport) -> Table:
    right = ("bars", *(cause.value for cause in _SHOWN), "days repaired")
    table = _table(f"Bars of {report.wanted} that differ, by cause", ("venue", "symbol"), right)
    for venue, symbol, unit in _named(report.units):
        causes = unit.causes()
        cells = [Text(f"{causes[cause]:,}" if causes[cause] else "·") for cause in _SHOWN]
        if causes[Cause.OTHER]:
            cells[_SHOWN.index(Cause.OTHER)].stylize("bold red")
        repaired = f"{len(unit.repaired):,}" if unit.repaired else "·"
        table.add_row(venue, symbol, f"{unit.bars:,}", *cells, repaired)
    return table


_SHOWN = (Cause.LATE, Cause.HEALED, Cause.LAGGING, Cause.TOXICITY, Cause.OTHER)


def _lines(report: AuditReport) -> list[Text]:
    lines = [
        Text(f"not audited: {', '.join(map(str, sorted(days)))} {why}")
        for why, days in sorted(report.waiting.items())
    ]
    differ = report.causes().total()
    told = f"{report.bars:,} bars of {len(report.units)} instruments, {differ:,} differ"
    result = {DEFECT: "SOME FOR NO KNOWN REASON", DIFFERS: "for known reasons"}
    if differ:
        told += f": {result.get(report.exit_code, 'repaired')}"
    return [*lines, Text(f"{told} ({report.seconds:.1f} s)")]


def _named(units: Sequence[UnitReport]) -> list[tuple[str, str, UnitReport]]:
    """With a venue's name at its first instrument only."""
    out, above = [], ""
    for unit in units:
        venue, symbol = unit.unit.live.exchange, unit.unit.live.symbol
        out.append(("" if venue == above else venue, symbol.removeprefix("perpetual-"), unit))
        above = venue
    return out


def timeline(unit: UnitReport) -> str:
    """How many trades gaps took, over the audited days in 24 equal parts; ? is of unknown size."""
    start, end = unit.ticks.start, unit.ticks.end
    missing, unknown = [0] * _CELLS, [False] * _CELLS
    for gap in unit.gaps:
        at = (gap["exchange_timestamp"] - start) * _CELLS // (end - start)
        at = min(max(at, 0), _CELLS - 1)
        if gap["first_missing"] is None:
            unknown[at] = True
        else:
            missing[at] += gap["last_missing"] - gap["first_missing"] + 1
    most = max(missing)
    cells = [_BLOCKS[-(-8 * n // most)] if most else " " for n in missing]
    return "".join("?" if doubt else cell for cell, doubt in zip(cells, unknown, strict=True))


def _share(part: int, whole: int) -> str:
    return _percent(part / whole if whole else None)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"
