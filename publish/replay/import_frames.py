"""Recordings of one exchange's frames, imported together: what one says holds for the next."""

from collections.abc import Sequence
from typing import Any

from ingest.instruments import HYPERLIQUID, Instrument
from ingest.recorded import RecordedFile, files_in_order, recorded_ticks
from ingest.recorded_gaps import RecordedGaps
from ingest.venues import ParseReport
from publish.progress import Progress, quiet
from publish.replay.contracts import Dated
from publish.replay.imported import ChunkWriter, Coverage, Imported
from publish.replay.missing import Edges
from publish.replay.sources.base import Input, SourceError
from publish.store import Store

COLLECTOR = "recording"
_EXAMPLE_CHARS = 100


def import_frames(
    sources: Sequence[Input],
    exchange: str,
    lists: Sequence[Dated],
    digest: str,
    store: Store,
    processes: int = 1,
    progress: Progress = quiet,
) -> Imported:
    """Write the recordings' ticks into the scratch area, over that many processes.

    Raises `RecordingError` or `SourceError` for what is no recording, or not of the exchange.
    """
    files = files_in_order([source.path for source in sources], exchange)
    sizes = {source.path: source.size for source in sources}
    total = sum(sizes.values())
    before = dict(zip((f.path for f in files), _running(sizes, files), strict=True))
    writer = ChunkWriter(store, digest, exchange, COLLECTOR)
    gaps, edges = RecordedGaps(exchange), Edges()
    batches = recorded_ticks(
        files,
        exchange,
        _in_force(lists, files[0].first),
        gaps=gaps,
        processes=processes,
        progress=lambda file, share: progress(
            "reading", before[file.path] + int(share * sizes[file.path]), total
        ),
    )
    for trades, quotes in batches:
        writer.add(trades)
        writer.add(quotes)
        if exchange != HYPERLIQUID:
            edges.add(trades)
    writer.add_gaps(gaps.found())
    writer.close()
    _refuse_change_within(lists, files)
    report = ParseReport()
    for file in files:
        report.merge(file.parsing)
    return Imported(
        digest,
        [_described(source) for source in sources],
        exchange,
        ["trades", "quotes"],
        "recorded",
        _coverage(files),
        _read(files, report),
        {f"malformed, {reason}": n for reason, n in report.malformed.items()},
        dict(report.unknown),
        {
            f"malformed, {reason}": (at, payload[:_EXAMPLE_CHARS].decode("utf-8", "replace"))
            for reason, (at, payload) in report.examples.items()
        },
        [problem for file in files for problem in file.reading.problems],
        dict(writer.chunks),
        writer.gaps,
        edges.of,
    )


def _running(sizes: Any, files: Sequence[RecordedFile]) -> list[int]:
    """The bytes of the files before each."""
    out, done = [], 0
    for file in files:
        out.append(done)
        done += sizes[file.path]
    return out


def _described(source: Input) -> dict[str, Any]:
    of = {"url": source.url, "sha256": source.sha256, "format": COLLECTOR}
    return {**of, "size": source.size}


def _read(files: Sequence[RecordedFile], report: ParseReport) -> dict[str, int]:
    return {
        "frames": report.frames,
        "trades": report.trades,
        "quotes": report.quotes,
        "ignored": report.ignored,
        "disconnects": sum(len(file.reading.disconnects) for file in files),
    }


def _in_force(lists: Sequence[Dated], at: int) -> Sequence[Instrument]:
    """The list that holds at a stamp, else the first."""
    held = [instruments for since, instruments in lists if since <= at]
    return held[-1] if held else lists[0][1] if lists else ()


def _refuse_change_within(lists: Sequence[Dated], files: Sequence[RecordedFile]) -> None:
    """A list that comes into force among the frames is not looked for frame by frame."""
    first, last = files[0].first, max(file.local_to for file in files)
    for since, _ in lists[1:]:
        if first < since <= last:
            raise SourceError(
                f"the recordings from {files[0].path.name} on go beyond the date of one of the "
                f"--instruments: replay those before that date and those after it by themselves"
            )


def _coverage(files: Sequence[RecordedFile]) -> list[Coverage]:
    """From when on each symbol is complete, until the end of the last file that has it.

    Between one recording and the next nothing is taken to be missing.
    """
    until: dict[str, tuple[int, int]] = {}
    for file in files:
        for coverage in file.coverage:
            for symbol in coverage.symbols:
                local, exchange = until.get(symbol, (0, 0))
                until[symbol] = max(local, file.local_to), max(exchange, file.exchange_to)
    out: dict[Coverage, None] = {}
    for file in files:
        for coverage in file.coverage:
            for symbol in coverage.symbols:
                local, exchange = until[symbol]
                stamps = coverage.local_from, local, coverage.exchange_from, exchange
                out[(symbol, *stamps, coverage.anew)] = None
    return list(out)
