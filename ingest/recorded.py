"""Recorded frames to ticks, over as many processes as wanted; the order of ticks is the files'.

Frames are parsed in chunks, each without knowing the ones before; what depends on those (which
Hyperliquid trades are a subscription's backlog) is settled in the order of the chunks.
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ingest.batches import Universe, quotes_batch, trades_batch
from ingest.continuity import aggregates_of
from ingest.gaps import DISCONNECT, RESTART
from ingest.instruments import Instrument, instrument_by_name
from ingest.killed import told_of_killed
from ingest.recorded_gaps import RecordedGaps
from ingest.recorder import (
    ReadReport,
    RecordingError,
    RecordingHeader,
    read_chunks,
    read_frames,
    read_header,
)
from ingest.records import Coverage
from ingest.ticks import BACKLOG, FUTURE_NS, I64, LIVE, Quotes, Trades
from ingest.venues import Frame, ParseReport, ParserState, Row, venue

CHUNK_FRAMES = 20_000
_ROWS_PER_CHUNK = 1 << 32


@dataclass(slots=True)
class Parsed:
    """A chunk's ticks, and what became of its other frames. `aggregates`: of each trade, if any."""

    trades: Trades
    quotes: Quotes
    aggregates: I64 | None
    report: ParseReport
    state: ParserState
    instruments: tuple[Instrument, ...]


@dataclass(slots=True)
class _Whole:
    """Symbols that are complete from a stamp on: all of a foreign file's, those of our own that an
    earlier file covered already. As live: `exchange_from` is known with the first live tick."""

    symbols: set[str]
    local_from: int
    exchange_from: int | None = None


@dataclass(slots=True)
class RecordedFile:
    """One file: its arrival stamps (ns), its symbols, what they cover, what was wrong with it.

    Of our own recordings only what they say is covered, of others everything from the first frame.
    """

    path: Path
    first: int
    own: bool
    local_to: int = 0
    exchange_to: int = 0
    symbols: set[str] = field(default_factory=set)
    whole: list["_Whole"] = field(default_factory=list)
    reading: ReadReport = field(default_factory=ReadReport)
    parsing: ParseReport = field(default_factory=ParseReport)
    untold: list[tuple[Collection[str], int]] = field(default_factory=list)
    """What it said is covered since when, and no chunk has it yet."""

    @property
    def coverage(self) -> list[Coverage]:
        """From when which symbols are complete."""
        found = list(self.reading.coverage)
        for whole in self.whole:
            if whole.exchange_from is not None:
                symbols = sorted(whole.symbols if self.own else self.symbols)
                found.append(Coverage(symbols, whole.local_from, whole.exchange_from))
        return found


def parse_chunk(
    exchange: str, known: Sequence[Instrument], frames: Sequence[Frame], first_row: int
) -> Parsed:
    """Ticks of the frames; symbols not in `known` are resolved by name where the name is enough."""
    instruments = {instrument.native: instrument for instrument in known}
    while True:
        trade_rows: list[Row] = []
        quote_rows: list[Row] = []
        universe = Universe(list(instruments.values()))
        numbers: list[tuple[int, int]] = []
        report, state = ParseReport(aggregates=numbers), ParserState()
        routes = universe.routes([trade_rows], [quote_rows])
        venue(exchange).parse(frames, routes, first_row, report, state)
        named = [instrument_by_name(exchange, native) for native in report.unknown]
        found = {i.native: i for i in named if i is not None and i.native not in instruments}
        if not found:
            trades = trades_batch(universe, trade_rows)
            quotes = quotes_batch(universe, quote_rows)
            aggregates = aggregates_of(np.array(numbers, np.int64), trades)
            report.aggregates = None
            return Parsed(trades, quotes, aggregates, report, state, universe.instruments)
        instruments |= found


def files_in_order(paths: Sequence[Path], exchange: str) -> list[RecordedFile]:
    """The files by first stamp. Raises `RecordingError` for one that is another venue's or none."""
    out = []
    if twice := [str(path) for path, n in Counter(p.resolve() for p in paths).items() if n > 1]:
        raise RecordingError(f"{', '.join(twice)} is given more than once")
    for path in paths:
        header = read_header(path)
        if header is not None and header.exchange != exchange:
            raise RecordingError(f"{path} was recorded from {header.exchange}, not {exchange}")
        frames = next(read_chunks(path, size=1), None)
        if frames is None:
            raise RecordingError(f"{path} holds no frames")
        first = frames[0][0]
        own = header is not None
        out.append(RecordedFile(path, first, own, whole=[] if own else [_Whole(set(), first)]))
    return sorted(out, key=lambda file: file.first)


@dataclass(slots=True)
class _Chunk:
    """Frames of a file, the instruments known there, and the share of its bytes read so far.

    `interrupted`: the connection was lost before them, or it is another session's. `covered`:
    symbols that are complete from a stamp on.
    """

    file: RecordedFile
    known: tuple[Instrument, ...]
    frames: list[Frame]
    share: float
    interrupted: str
    covered: list[tuple[Collection[str], int]]


def recorded_ticks(
    files: Sequence[RecordedFile],
    exchange: str,
    instruments: Sequence[Instrument],
    *,
    gaps: RecordedGaps | None = None,
    processes: int = 1,
    chunk_frames: int = CHUNK_FRAMES,
    progress: Callable[[RecordedFile, float], None] = lambda file, share: None,
) -> Iterator[tuple[Trades, Quotes]]:
    """Batches in the order of the files; fills in each file's coverage and reports, and `gaps`.

    `progress` is called after each batch with the file and the share of its bytes read.
    """
    state = ParserState()
    chunks = _chunks(files, instruments, chunk_frames)
    for chunk, parsed in _parsed(chunks, exchange, processes):
        if chunk.interrupted == DISCONNECT:
            state = ParserState()
        _settle(state, parsed)
        _account(chunk.file, parsed, chunk.frames)
        if gaps is not None:
            _check(gaps, chunk, parsed)
        progress(chunk.file, chunk.share)
        yield parsed.trades, parsed.quotes


def _check(gaps: RecordedGaps, chunk: _Chunk, parsed: Parsed) -> None:
    if chunk.interrupted:
        gaps.interrupted(chunk.interrupted)
    for symbols, since in chunk.covered:
        gaps.covered(symbols, since)
    gaps.add(parsed.trades, parsed.quotes, parsed.aggregates, says_covered=chunk.file.own)


def _parsed(
    chunks: Iterator[_Chunk], exchange: str, processes: int
) -> Iterator[tuple[_Chunk, Parsed]]:
    """The chunks in order with what was parsed, a bounded number of them under way."""
    jobs = (
        (chunk, (exchange, chunk.known, chunk.frames, row * _ROWS_PER_CHUNK))
        for row, chunk in enumerate(chunks)
    )
    if processes == 1:
        for chunk, job in jobs:
            yield chunk, parse_chunk(*job)
        return
    waiting: deque[tuple[_Chunk, Future[Parsed]]] = deque()
    # Forking a process that has threads (Arrow's) can deadlock the child.
    with (
        told_of_killed("parses recordings"),
        ProcessPoolExecutor(processes, get_context("spawn")) as pool,
    ):
        for chunk, job in jobs:
            waiting.append((chunk, pool.submit(parse_chunk, *job)))
            if len(waiting) > 2 * processes:
                chunk, result = waiting.popleft()
                yield chunk, result.result()
        for chunk, result in waiting:
            yield chunk, result.result()


@dataclass(slots=True)
class _Said:
    """What was said before a frame, in its file and the files before it."""

    known: dict[str, Instrument] = field(default_factory=dict)
    interrupted: str = ""
    session: str = ""
    reached: int = 0

    def take(self, file: RecordedFile, header: RecordingHeader | None) -> None:
        """A header, or None: the connection was lost."""
        if header is None:
            self.interrupted = DISCONNECT
            return
        self.known |= _learnt(file, header)
        if self.session not in ("", header.session) and header.local_from > self.reached:
            self.interrupted = self.interrupted or RESTART
        self.session = header.session


def _chunks(
    files: Sequence[RecordedFile], instruments: Sequence[Instrument], chunk_frames: int
) -> Iterator[_Chunk]:
    given = {instrument.native: instrument for instrument in instruments}
    said = _Said()
    for file in files:
        size = file.path.stat().st_size
        seen = lost = told = 0
        with file.path.open("rb") as raw:
            lines = read_frames(raw, file.reading)
            while chunk := list(islice(lines, chunk_frames)):
                headers = file.reading.headers[seen:]
                losses = [(at, None) for at in file.reading.disconnects[lost:]]
                file.untold += [(c.symbols, c.local_from) for c in file.reading.coverage[told:]]
                seen, lost = seen + len(headers), lost + len(losses)
                told = len(file.reading.coverage)
                start = 0
                for at, header in [*sorted([*headers, *losses], key=itemgetter(0)), (inf, None)]:
                    # A header holds for what follows it, a contract size for instance.
                    end = bisect_left(chunk, at, key=itemgetter(0))
                    if start < end:
                        yield _part(file, said, given, chunk[start:end], raw.tell() / size)
                    start = end
                    if at < inf:
                        said.take(file, header)
            if len(file.reading.disconnects) > lost:
                said.take(file, None)


def _learnt(file: RecordedFile, header: RecordingHeader) -> dict[str, Instrument]:
    """The instruments from here on; what they cover goes to the file."""
    file.symbols |= {i.symbol for i in header.instruments}
    if header.whole:
        file.whole.append(_Whole(header.whole, header.local_from))
        file.untold.append((header.whole, header.local_from))
    return {i.native: i for i in header.instruments}


def _part(
    file: RecordedFile,
    said: _Said,
    given: dict[str, Instrument],
    lines: Sequence[tuple[int, int, bytes]],
    share: float,
) -> _Chunk:
    """The lines as one chunk. What the user gave wins over the recorder's."""
    frames = [(ns, payload) for _, ns, payload in lines]
    last = frames[-1][0]
    covered = [of for of in file.untold if of[1] <= last]
    file.untold = [of for of in file.untold if of[1] > last]
    interrupted, said.interrupted = said.interrupted, ""
    said.reached = max(said.reached, last)
    known = tuple((said.known | given).values())
    return _Chunk(file, known, frames, share, interrupted, covered)


def _settle(state: ParserState, parsed: Parsed) -> None:
    """Backlog that a chunk could only guess: mark what was live after all."""
    trades = parsed.trades
    symbols = {i.native: i.symbol for i in parsed.instruments}
    for native, first, end in state.settle(parsed.state):
        code = list(trades.symbols).index(symbols[native])
        rows = (trades.code == code) & (trades.row >= first) & (trades.row < end)
        trades.origin[rows & (trades.origin == BACKLOG)] = LIVE


def _account(file: RecordedFile, parsed: Parsed, frames: list[Frame]) -> None:
    """Extend the file's coverage by a chunk's."""
    file.parsing.merge(parsed.report)
    file.local_to = max(file.local_to, frames[-1][0])
    for ticks in (parsed.trades, parsed.quotes):
        file.symbols |= {ticks.symbols[code] for code in np.unique(ticks.code).tolist()}
    last = [file.exchange_to]
    for ticks in (parsed.trades, parsed.quotes):
        live = _live(ticks)
        if live.any():
            last.append(int(ticks.exchange_ts[live].max()))
    file.exchange_to = max(last)
    for whole in file.whole:
        if whole.exchange_from is None:
            whole.exchange_from = _exchange_from(parsed, whole.local_from)


def _live(ticks: Trades | Quotes) -> npt.NDArray[np.bool_]:
    live: npt.NDArray[np.bool_] = ticks.origin == LIVE
    live &= ticks.exchange_ts <= ticks.local_ts + FUTURE_NS
    return live


def _exchange_from(parsed: Parsed, local_from: int) -> int | None:
    """The later of `local_from` and the exchange stamp of the first live tick at or after it."""
    first = []
    for ticks in (parsed.trades, parsed.quotes):
        live = _live(ticks) & (ticks.local_ts >= local_from)
        if live.any():
            first.append((int(ticks.local_ts[live][0]), int(ticks.exchange_ts[live][0])))
    return max(local_from, min(first)[1]) if first else None
