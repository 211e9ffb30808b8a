"""Recorded frames to ticks, over as many processes as wanted; the order of ticks is the files'.

Frames are parsed in chunks, each without knowing the ones before; what depends on those (which
Hyperliquid trades are a subscription's backlog) is settled in the order of the chunks.
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ingest.batches import Universe, quotes_batch, trades_batch
from ingest.instruments import Instrument, instrument_by_name
from ingest.killed import told_of_killed
from ingest.recorder import (
    ReadReport,
    RecordingError,
    RecordingHeader,
    read_chunks,
    read_frames,
    read_header,
)
from ingest.records import Coverage
from ingest.ticks import BACKLOG, FUTURE_NS, LIVE, Quotes, Trades
from ingest.venues import Frame, ParseReport, ParserState, Row, venue

CHUNK_FRAMES = 20_000
_ROWS_PER_CHUNK = 1 << 32


@dataclass(slots=True)
class Parsed:
    """A chunk's ticks, and what became of its other frames."""

    trades: Trades
    quotes: Quotes
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
        report, state = ParseReport(), ParserState()
        routes = universe.routes([trade_rows], [quote_rows])
        venue(exchange).parse(frames, routes, first_row, report, state)
        named = [instrument_by_name(exchange, native) for native in report.unknown]
        found = {i.native: i for i in named if i is not None and i.native not in instruments}
        if not found:
            trades = trades_batch(universe, trade_rows)
            quotes = quotes_batch(universe, quote_rows)
            return Parsed(trades, quotes, report, state, universe.instruments)
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

    `anew`: the connection was lost before them.
    """

    file: RecordedFile
    known: tuple[Instrument, ...]
    frames: list[Frame]
    share: float
    anew: bool


def recorded_ticks(
    files: Sequence[RecordedFile],
    exchange: str,
    instruments: Sequence[Instrument],
    *,
    processes: int = 1,
    chunk_frames: int = CHUNK_FRAMES,
    progress: Callable[[RecordedFile, float], None] = lambda file, share: None,
) -> Iterator[tuple[Trades, Quotes]]:
    """Batches in the order of the files; fills in each file's coverage and reports.

    `progress` is called after each batch with the file and the share of its bytes read.
    """
    state = ParserState()
    chunks = _chunks(files, instruments, chunk_frames)
    for chunk, parsed in _parsed(chunks, exchange, processes):
        if chunk.anew:
            state = ParserState()
        _settle(state, parsed)
        _account(chunk.file, parsed, chunk.frames)
        progress(chunk.file, chunk.share)
        yield parsed.trades, parsed.quotes


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


def _chunks(
    files: Sequence[RecordedFile], instruments: Sequence[Instrument], chunk_frames: int
) -> Iterator[_Chunk]:
    given = {instrument.native: instrument for instrument in instruments}
    known: dict[str, Instrument] = {}
    anew = False
    for file in files:
        size = file.path.stat().st_size
        seen = lost = 0
        with file.path.open("rb") as raw:
            lines = read_frames(raw, file.reading)
            while chunk := list(islice(lines, chunk_frames)):
                headers = file.reading.headers[seen:]
                losses = [(at, None) for at in file.reading.disconnects[lost:]]
                seen, lost = seen + len(headers), lost + len(losses)
                start = 0
                for at, header in sorted([*headers, *losses], key=itemgetter(0)):
                    # A header holds for what follows it, a contract size for instance.
                    end = bisect_left(chunk, at, key=itemgetter(0))
                    if start < end:
                        yield _part(file, known | given, chunk[start:end], raw.tell() / size, anew)
                        anew = False
                    start = end
                    anew = anew or header is None
                    if header is not None:
                        known |= _learnt(file, header)
                if start < len(chunk):
                    yield _part(file, known | given, chunk[start:], raw.tell() / size, anew)
                    anew = False
            anew = anew or len(file.reading.disconnects) > lost


def _learnt(file: RecordedFile, header: RecordingHeader) -> dict[str, Instrument]:
    """The instruments from here on; what they cover goes to the file."""
    file.symbols |= {i.symbol for i in header.instruments}
    if header.whole:
        file.whole.append(_Whole(header.whole, header.local_from))
    return {i.native: i for i in header.instruments}


def _part(
    file: RecordedFile,
    known: Mapping[str, Instrument],
    lines: Sequence[tuple[int, int, bytes]],
    share: float,
    anew: bool,
) -> _Chunk:
    """The lines as one chunk. What the user gave wins over the recorder's."""
    frames = [(ns, payload) for _, ns, payload in lines]
    return _Chunk(file, tuple(known.values()), frames, share, anew)


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
