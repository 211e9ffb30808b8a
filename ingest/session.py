"""One run of a collector, as records: frames in, log records out, in an order that keeps promises.

A session parses frames in the order of their stamps and gathers the ticks per (kind, partition).
What it returns must be appended in the order it was returned; then

- session-start is the first record of the session in every partition and session-end the last,
- no record after a punctuation carries a tick whose `local_ts` is below the promise: the promise
  is taken on the clock that stamps frames, and everything stamped before is returned before it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import orjson
import structlog

from ingest import continuity, metrics, records
from ingest.batches import Universe, quotes_batch, trades_batch
from ingest.clock import ArrivalClock
from ingest.continuity import Continuity, aggregates_of
from ingest.gaps import DISCONNECT, Gap, gap_record
from ingest.history import Print
from ingest.instruments import partition_of
from ingest.log import NewRecord
from ingest.numbered import Numbered
from ingest.records import QUOTES_TOPIC, TICK_TOPICS, TRADES_TOPIC, Coverage, GapRecord, Source
from ingest.symbol_watch import SymbolWatch
from ingest.ticks import HEALED, LIVE, Quotes, Trades, encode
from ingest.venues import Frame, Notice, ParseReport, ParserState, Row, Venue
from ingest.venues.common import TRADE_ROW

PARSE_FRAMES = 64
"""Frames that are parsed at once as soon as they are there: enough to spread the cost of a call,
few enough that the event loop is never held for long."""

Answer = Callable[[Notice], None]


class Link(Protocol):
    """The connection that frames came from: what the parser remembers of it, and who is told."""

    state: ParserState

    def heard(self, trades: int, quotes: int) -> None: ...


K = TypeVar("K", Trades, Quotes)

_log = structlog.get_logger(__name__)


class Session:
    """The ticks of one (collector, exchange) between two restarts. Does no I/O."""

    def __init__(
        self,
        source: Source,
        venue: Venue,
        universe: Universe,
        partitions: int,
        clock: ArrivalClock,
        batch_rows: int,
        checks: Continuity | None = None,
        found: Callable[[Gap], None] = lambda gap: None,
        covered: Callable[[Coverage], None] = lambda coverage: None,
    ) -> None:
        """`checks` knows what earlier sessions left on the log; `found` is told of each new gap,
        `covered` of each coverage when it is due for the log."""
        self.source = source
        self._venue = venue
        self._universe = universe
        self._partitions = partitions
        self._clock = clock
        self._batch_rows = batch_rows
        self._trades: list[list[Row]] = [[] for _ in range(partitions)]
        self._quotes: list[list[Row]] = [[] for _ in range(partitions)]
        self._routes = universe.routes(self._trades, self._quotes)
        self._pending: list[tuple[Answer, Link | None, list[Frame]]] = []
        self._pending_frames = 0
        self.ticks = 0
        """Ticks parsed so far: the `row` of the next."""
        self.singles = self.quotes = 0
        """Trades that were no aggregates, and quotes, flushed so far."""
        self._state = ParserState()
        self._continuity = checks or continuity.continuity(source.exchange)
        self._found = found
        self._cover = covered
        self.watch = SymbolWatch()
        self._flow = metrics.Flow(source.exchange)
        self._aggregates: list[tuple[int, int]] = []
        self._report = ParseReport(aggregates=self._aggregates)
        self._told: set[str] = set()
        self._records = Numbered(source, partitions)
        self._covered: list[tuple[int, frozenset[str], bool]] = []
        self._steps = (clock.steps_back, clock.steps_forward)

    def start(self) -> list[NewRecord]:
        """The first records of the session."""
        return self._records.marks(records.SESSION_START, self._clock.now())

    def receive(
        self, frames: list[Frame], answer: Answer, link: Link | None = None
    ) -> list[NewRecord]:
        """Take the frames of one read of one connection; returns what is due for the log.

        Frames must be given in the order of their stamps. `answer` gets the notices among them
        (acks, errors), no later than the next `flush`, and `link` what was heard.
        """
        self._pending.append((answer, link, frames))
        self._pending_frames += len(frames)
        if self._pending_frames < PARSE_FRAMES:
            return []
        self._parse()
        full = max(map(len, self._trades + self._quotes)) >= self._batch_rows
        return self.flush() if full else []

    def subscribed(self, natives: Sequence[str], local_from: int, *, anew: bool = False) -> None:
        """All subscriptions of `natives` stand from `local_from` on; `anew`: see `Coverage`."""
        self.listen(natives)
        symbols = {i.native: i.symbol for i in self._universe.instruments}
        covered = frozenset(symbols[native] for native in natives)
        self._covered.append((local_from, covered, anew))
        self._continuity.covered(covered, local_from)

    def listen(self, natives: Iterable[str]) -> None:
        """These have been subscribed (again): silence of a symbol counts from now."""
        self.watch.start([self._routes[n].code for n in natives], self._clock.now())

    def update(self, universe: Universe) -> list[NewRecord]:
        """Everything received so far, by the instruments so far; what follows by `universe`.

        An instrument keeps its code: new ones come behind those there are.
        """
        due = self.flush()
        self._universe = universe
        self._routes = universe.routes(self._trades, self._quotes)
        return due

    def flush(self) -> list[NewRecord]:
        """Everything received so far, as tick records."""
        self._parse()
        trades = self._checked(self._batches(self._trades, trades_batch))
        quotes = self._batches(self._quotes, quotes_batch)
        self.quotes += sum(map(len, quotes.values()))
        self.watch.heard(list(trades.values()), list(quotes.values()))
        self._flow.arrived(trades.values(), quotes.values())
        due = self._coverage([*trades.values(), *quotes.values()])
        due += [
            self._records.record(TRADES_TOPIC, p, records.TRADES, encode(b))
            for p, b in trades.items()
        ]
        due += [
            self._records.record(QUOTES_TOPIC, p, records.QUOTES, encode(b))
            for p, b in quotes.items()
        ]
        due += self._gaps()
        self._count()
        return due

    def punctuate(self) -> list[NewRecord]:
        """Everything received so far, then the promise that the rest is later."""
        promise = self._clock.now()
        due = self.flush() + self._clock_steps()
        return due + self._records.marks(records.PUNCTUATION, promise)

    def event(self, what: str, **details: str) -> list[NewRecord]:
        """Everything received so far, then an event in every partition of the trades topic."""
        value = orjson.dumps({"event": what, "local_ts": self._clock.now(), **details})
        due = self.flush()
        due += [
            self._records.record(TRADES_TOPIC, p, records.EVENT, value)
            for p in range(self._partitions)
        ]
        no_trades = what == "channel-silent" and details["reason"] == records.TRADES
        if what == "disconnected" or no_trades:
            self._continuity.interrupted(DISCONNECT)
        elif what == "symbol-silent":
            self._continuity.silent(details["symbol"])
        elif what == "delisted":
            until = self._clock.now() + continuity.LAST_NS
            self._continuity.ended(details["symbol"], until)
        return due

    def healed(self, symbol: str, prints: Sequence[Print]) -> list[NewRecord]:
        """Everything received so far, and trades of a gap that REST brought: they arrive now."""
        self._parse()
        native = next(i.native for i in self._universe.instruments if i.symbol == symbol)
        route, now = self._routes[native], self._clock.now()
        self.singles -= len(prints)  # not of the stream
        for p in prints:
            row = route.code, p.exchange_ms, now, p.id, p.count, p.side, p.price, p.size
            route.trade(TRADE_ROW.pack(*row, HEALED, 0, self.ticks))
            self.ticks += 1
        metrics.HEALED.labels(self.source.exchange).inc(len(prints))
        return self.flush()

    def gap(self, gap: GapRecord) -> list[NewRecord]:
        """Everything received so far, then how the healing of a gap ended."""
        exchange = self.source.exchange
        metrics.GAPS_CLOSED.labels(exchange, gap.state).inc()
        metrics.MISSING.labels(exchange).inc(gap.missing or 0)
        return [*self.flush(), self._gap_record(gap)]

    def end(self) -> list[NewRecord]:
        """Everything received so far, then the last records of the session."""
        due = self.flush() + self._gaps(final=True)
        return due + self._records.marks(records.SESSION_END, self._clock.now())

    def _parse(self) -> None:
        pending, self._pending = self._pending, []
        self._pending_frames = 0
        for answer, link, frames in pending:
            report = self._report  # a flush that an answer leads to starts another
            trades, quotes = report.trades, report.quotes
            state = self._state if link is None else link.state
            self.ticks = self._venue.parse(frames, self._routes, self.ticks, report, state)
            if link is not None:
                link.heard(report.trades - trades, report.quotes - quotes)
            if report.notices:
                notices, report.notices = report.notices, []
                for notice in notices:
                    answer(notice)

    def _batches(
        self, lists: list[list[Row]], build: Callable[[Universe, Sequence[Row]], K]
    ) -> dict[int, K]:
        """The batch of each partition that has rows; the lists, which routes hold, are emptied."""
        batches = {p: build(self._universe, rows) for p, rows in enumerate(lists) if rows}
        for rows in lists:
            rows.clear()
        return batches

    def _checked(self, batches: dict[int, Trades]) -> dict[int, Trades]:
        """The batches without the aggregates that can't be counted; gaps are noted on the way."""
        self.singles += sum(map(len, batches.values())) - len(self._aggregates)
        numbers, self._aggregates[:] = np.array(self._aggregates, np.int64), []
        checked = {}
        for p, batch in batches.items():
            keep = self._continuity.check(batch, aggregates_of(numbers, batch))
            if keep is not None:
                metrics.STRADDLES.labels(self.source.exchange).inc(int((~keep).sum()))
                batch = batch.take(keep)
            if len(batch):
                checked[p] = batch
        return checked

    def _gaps(self, *, final: bool = False) -> list[NewRecord]:
        """Records of the gaps that are certain by now; at the end, of all that are open."""
        due = []
        exchange = self.source.exchange
        for gap in self._continuity.due(None if final else self._clock.now()):
            metrics.GAPS.labels(exchange, gap.reason).inc()
            due.append(self._gap_record(gap_record(exchange, gap)))
            self._found(gap)
        return due

    def _gap_record(self, gap: GapRecord) -> NewRecord:
        partition = partition_of(gap.exchange, gap.symbol, self._partitions)
        return self._records.record(TRADES_TOPIC, partition, records.GAP, gap.encode())

    def _coverage(self, batches: Sequence[Trades | Quotes]) -> list[NewRecord]:
        """Coverage of every partition, once: with the first live tick after subscribing."""
        due = []
        for covered in list(self._covered):
            local_from, symbols, anew = covered
            first = _first_live(batches, local_from)
            if first is None:
                continue
            self._covered.remove(covered)
            exchange_from = max(local_from, first)
            self._cover(Coverage(sorted(symbols), local_from, exchange_from, anew))
            for p, mine in enumerate(self._symbols_by_partition(symbols)):
                value = Coverage(mine, local_from, exchange_from, anew).encode()
                due += [
                    self._records.record(t, p, records.COVERAGE, value) for t in TICK_TOPICS if mine
                ]
        return due

    def _symbols_by_partition(self, symbols: frozenset[str]) -> list[list[str]]:
        by_partition: list[list[str]] = [[] for _ in range(self._partitions)]
        where = self._universe.partitions(self._partitions)
        for symbol, partition in zip(self._universe.symbols, where, strict=True):
            if symbol in symbols:
                by_partition[partition].append(symbol)
        return by_partition

    def _clock_steps(self) -> list[NewRecord]:
        steps = self._clock.steps_back, self._clock.steps_forward
        if steps == self._steps:
            return []
        back, forward = (now - before for now, before in zip(steps, self._steps, strict=True))
        self._steps = steps
        exchange = self.source.exchange
        metrics.CLOCK_STEPS.labels(exchange, "back").inc(back)
        metrics.CLOCK_STEPS.labels(exchange, "forward").inc(forward)
        _log.warning("wall clock stepped", exchange=exchange, back=back, forward=forward)
        return self.event("clock-step", back=str(back), forward=str(forward))

    def _count(self) -> None:
        """Give the metrics what was parsed, and the log the first of each new problem."""
        report, self._report = self._report, ParseReport(aggregates=self._aggregates)
        if not report.frames:
            return
        exchange = self.source.exchange
        self._flow.parsed(report)
        for reason, n in report.malformed.items():
            metrics.MALFORMED.labels(exchange, reason).inc(n)
            if self._is_new(reason):
                _, example = report.examples[reason]
                _log.warning("malformed frame", exchange=exchange, reason=reason, frame=example)
        for native, n in report.unknown.items():
            metrics.UNKNOWN_SYMBOL.labels(exchange).inc(n)
            if self._is_new(f"symbol {native}"):
                _log.warning("unknown symbol", exchange=exchange, symbol=native)

    def _is_new(self, problem: str) -> bool:
        # Bounded: a venue that sends ever new symbols is not worth memory or a log of each.
        if problem in self._told or len(self._told) >= 1_000:
            return False
        self._told.add(problem)
        return True


def _first_live(batches: Sequence[Trades | Quotes], local_from: int) -> int | None:
    """`exchange_ts` (ns) of the first live tick that arrived at or after `local_from`."""
    firsts = []
    for batch in batches:
        live = np.flatnonzero((batch.origin == LIVE) & (batch.local_ts >= local_from))
        if len(live):
            at = live[np.argmin(batch.row[live])]
            firsts.append((int(batch.row[at]), int(batch.exchange_ts[at])))
    return min(firsts)[1] if firsts else None
