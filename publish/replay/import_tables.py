"""One file that is a table, imported."""

from dataclasses import dataclass, field

import numpy as np

from ingest.instruments import OKX
from ingest.ticks import I64, Trades
from publish.progress import Progress, quiet
from publish.raw_chunks import TRADES
from publish.replay.contracts import Contracts
from publish.replay.imported import ChunkWriter, Coverage, Extent, Imported, behind
from publish.replay.missing import Missing
from publish.replay.opening import beside
from publish.replay.sources import SOURCES
from publish.replay.sources.base import (
    Bools,
    Input,
    Layout,
    Report,
    Rows,
    SourceError,
    TradeRows,
)
from publish.replay.sources.tables import Where
from publish.replay.sources.texts import text_of
from publish.store import Store

CHECKSUM = ".CHECKSUM"
_EXAMPLES = 5


def import_table(
    source: Input,
    layout: Layout,
    contracts: Contracts,
    latency_ns: int | None,
    digest: str,
    store: Store,
    progress: Progress = quiet,
) -> Imported:
    """Write the file's ticks into the scratch area; raises `SourceError` if it can't be read.

    `latency_ns`: how long after the exchange stamp its ticks are taken to have arrived, where the
    format doesn't say.
    """
    check_sum(source)
    of = SOURCES[layout.format]
    report = Report()
    writer = ChunkWriter(store, digest, contracts.exchange, of.collector)
    extent = Extent()
    order = _Order(layout)
    holes = of.holes(layout) if layout.kind == TRADES else ""
    missing = Missing(holes) if holes else None
    with source.path.open("rb") as raw, text_of(source.url, raw) as text:
        for rows, where in of.read(text, source.url, layout, report):
            if not of.recorded:
                rows.local_ts = rows.exchange_ts + (latency_ns or 0)
            order.add(rows, where)
            for ticks in contracts.ticks(rows, report):
                extent.add(ticks)
                writer.add(ticks)
                if missing is not None and isinstance(ticks, Trades):
                    missing.add(ticks, _aggregates(rows, ticks), report.lost)
            if missing is not None:
                writer.add_gaps(missing.due())
            progress(source.name, raw.tell(), source.size)
    if missing is not None:
        missing.end(report.lost)
        writer.add_gaps(missing.due(final=True))
    writer.close()
    if report.unknown and not writer.rows:
        raise SourceError(_unknown(source, contracts.exchange, report))
    order.tell(report)
    assumed = "none" if latency_ns is None else f"assumed:{latency_ns}"
    return Imported(
        digest,
        [_described(source, layout)],
        contracts.exchange,
        [layout.kind],
        "recorded" if of.recorded else assumed,
        _coverage(layout, extent, 0 if of.recorded else latency_ns or 0),
        {**report.read, **writer.rows},
        dict(report.skipped),
        dict(report.unknown),
        problems=report.problems,
        chunks=dict(writer.chunks),
        gaps=writer.gaps,
        edges=missing.edges.of if missing is not None else {},
    )


def _aggregates(rows: Rows, trades: Trades) -> I64 | None:
    """Of each trade that was made of the rows, from 1 on: 0 is none."""
    if not isinstance(rows, TradeRows) or rows.aggregate is None:
        return None
    whole = len(trades) == len(rows.row)
    numbers = rows.aggregate if whole else rows.aggregate[np.searchsorted(rows.row, trades.row)]
    return numbers + 1


def _described(source: Input, layout: Layout) -> dict[str, object]:
    of = {"url": source.url, "sha256": source.sha256, "format": layout.format}
    return {**of, "size": source.size}


def check_sum(source: Input) -> None:
    """Compare the file with the checksum beside it, if there is one (Binance's: `sha256  name`).

    Raises `SourceError` if they differ.
    """
    text = beside(source.url, CHECKSUM)
    if text is None:
        return
    said = text.split()[0].decode("ascii", "replace").lower() if text.split() else ""
    if said != source.sha256:
        raise SourceError(
            f"{source.url}: its sha256 is {source.sha256}, {source.name}{CHECKSUM} says "
            f"{said[:64] or 'nothing'}: get both again"
        )


def _unknown(source: Input, exchange: str, report: Report) -> str:
    names = ", ".join(name for name, _ in report.unknown.most_common(_EXAMPLES))
    why = "contract sizes are in no name: " if exchange == OKX else ""
    return (
        f"{source.url} has nothing but instruments of {exchange} that are not known, {names}: "
        f"{why}pass --instruments with the venue's list"
    )


@dataclass(slots=True)
class _Order:
    """Rows that come out of their order or lie outside of the file's day: kept, and told."""

    layout: Layout
    high: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    firsts: dict[str, str] = field(default_factory=dict)

    def add(self, rows: Rows, where: Where) -> None:
        stamps = rows.local_ts
        if not len(stamps):
            return
        self._note("out of order", behind(stamps, self.high), rows, where)
        self.high = max(self.high, int(stamps.max()))
        if self.layout.span is not None:
            start, end = self.layout.span
            clock = rows.local_ts if self.recorded else rows.exchange_ts
            self._note("outside of the file's day", (clock < start) | (clock >= end), rows, where)

    @property
    def recorded(self) -> bool:
        return SOURCES[self.layout.format].recorded

    def _note(self, what: str, at: Bools, rows: Rows, where: Where) -> None:
        n = int(at.sum())
        if n:
            self.counts[what] = self.counts.get(what, 0) + n
            if what not in self.firsts:
                self.firsts[what] = where(int(rows.row[at][0]))

    def tell(self, report: Report) -> None:
        for what, n in self.counts.items():
            report.note(f"{self.firsts[what]}: {n:,} rows from here on are {what}, kept")


def _coverage(layout: Layout, extent: Extent, latency_ns: int) -> list[Coverage]:
    """What the file is the whole of: the span its name says, else from its first row to its last.

    Cut by arrival, a span says of the exchange clock where it begins if nothing arrives before it
    happens, and where it ends only with the last stamp: what comes later is in the next file.
    """
    recorded = SOURCES[layout.format].recorded
    out: list[Coverage] = []
    for symbol, (local_ts, exchange_ts) in extent.first.items():
        last = extent.last[symbol]
        if layout.span is None:
            since = max(local_ts, exchange_ts) if recorded else exchange_ts
            out.append((symbol, local_ts, last[0] + 1, since, last[1] + 1, False))
            continue
        start, end = layout.span
        if recorded:
            since = start if exchange_ts <= local_ts else max(start, exchange_ts)
            out.append((symbol, start, end, since, max(since, last[1] + 1), False))
        else:
            out.append((symbol, start + latency_ns, end + latency_ns, start, end, False))
    return out
