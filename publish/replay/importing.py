"""Any source into raw-archive form: a scratch area that the one engine reads.

What it holds is in `publish.replay.imported`. An import's digest is of its files' content and of
the settings that shape its ticks: what is done is not done again, however often the replay is
started, and what was cut off begins anew. Memory is bounded by a chunk, whatever a file's size.
Recordings of an exchange are imported together, because what one says (instruments,
subscriptions) holds for the next.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from ingest.recording import read_header
from publish.progress import Progress, quiet
from publish.replay.between import gaps_between
from publish.replay.contracts import Contracts, Dated, read_lists
from publish.replay.import_frames import import_frames
from publish.replay.import_tables import import_table
from publish.replay.imported import ChunkWriter, Imported, find, finish, sweep
from publish.replay.opening import expand, fetch, opened, size_of
from publish.replay.overlaps import refuse_overlaps, same_content
from publish.replay.processes import Advance, over_processes
from publish.replay.sources import FRAMES, recognise
from publish.replay.sources.base import Input, Layout, SourceError
from publish.replay.sources.texts import first_lines, is_zip
from publish.store import Store

VERSION = 2
"""Of what is imported: another number imports everything anew."""
_DIGEST_CHARS = 16
_LOOKED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """`exchange`: of files that don't say it. `instruments`: as `publish.replay.contracts`.

    `assume_latency_ns`: how long after the exchange stamp ticks of sources without an arrival
    time are taken to have arrived; None: they have none.
    """

    exchange: str | None = None
    instruments: tuple[str, ...] = ()
    assume_latency_ns: int | None = None
    processes: int = 1


@dataclass(frozen=True, slots=True)
class _File:
    url: str
    layout: Layout
    size: int


@dataclass(frozen=True, slots=True)
class _Settings:
    """What shapes an exchange's ticks beside the files."""

    exchange: str
    lists: tuple[Dated, ...]
    latency_ns: int | None

    def digest(self, *of: object) -> str:
        lists = [[since, [asdict(i) for i in listed]] for since, listed in self.lists]
        settings = [VERSION, self.exchange, lists, self.latency_ns, *of]
        return _digest(settings)


def _digest(facts: Sequence[object]) -> str:
    return hashlib.sha256(orjson.dumps(facts)).hexdigest()[:_DIGEST_CHARS]


@dataclass(frozen=True, slots=True)
class _Job:
    """A table to be imported, by whichever process."""

    file: _File
    settings: _Settings
    scratch: Store


def import_all(
    given: Sequence[str], options: ImportOptions, scratch: Store, progress: Progress = quiet
) -> list[Imported]:
    """Import the files that paths, globs and URLs name, in the order given; recordings last.

    What is missing between them is behind them, an import without a source.
    All are looked at before any is imported. Raises `SourceError`, `RecordingError` or an
    `ExceptionGroup` of several, `StoreError`: the rest of the scratch area stays for the next time.
    """
    lists = read_lists(options.instruments)
    files = _all_recognised(expand(given))
    sweep(scratch)
    tables = [file for file in files if file.layout.format != FRAMES]
    latency_ns = options.assume_latency_ns
    jobs = [
        _Job(file, _settings(_exchange_of(file, options), lists, latency_ns), scratch)
        for file in tables
    ]
    found = _import_tables(jobs, options.processes, progress)
    recordings = [file for file in files if file.layout.format == FRAMES]
    found += _import_frames(recordings, options, lists, scratch, progress)
    found = refuse_overlaps(found)
    return [*found, *_between(found, scratch)]


def _between(found: Sequence[Imported], scratch: Store) -> Iterator[Imported]:
    for exchange, gaps in gaps_between(found).items():
        of = sorted(imported.digest for imported in found if imported.exchange == exchange)
        digest = _digest([VERSION, "between", of])
        done = find(scratch, digest)
        if done is None:
            writer = ChunkWriter(scratch, digest, exchange, collector="")
            writer.add_gaps(gaps)
            writer.close()
            chunks = dict(writer.chunks)
            done = Imported(digest, [], exchange, [], "", chunks=chunks, gaps=writer.gaps)
            finish(scratch, done)
        yield done


def _all_recognised(urls: Sequence[str]) -> list[_File]:
    with ThreadPoolExecutor(_LOOKED_AT_ONCE) as threads:
        found = list(threads.map(_recognised, urls))
    errors = [of for of in found if isinstance(of, SourceError)]
    if len(errors) > 1:
        raise ExceptionGroup("files that can't be replayed", errors)
    if errors:
        raise errors[0]
    return [of for of in found if isinstance(of, _File)]


def _recognised(url: str) -> _File | SourceError:
    try:
        with opened(url) as raw:
            layout = recognise(url, first_lines(url, raw))
            if layout.format == FRAMES and is_zip(raw):
                raise SourceError(f"{url}: frames are read plain or as gzip: unzip it first")
            return _File(url, layout, size_of(url))
    except SourceError as error:
        return error


def _exchange_of(file: _File, options: ImportOptions) -> str:
    said, given = file.layout.exchange, options.exchange
    if said and given and said != given:
        raise SourceError(f"{file.url} is of {said}, not {given}: leave --venue out")
    exchange = said or given
    if exchange is None:
        raise SourceError(f"{file.url} does not say which exchange it is of: pass --venue")
    return exchange


def _settings(exchange: str, lists: dict[str, list[Dated]], latency_ns: int | None) -> _Settings:
    return _Settings(exchange, tuple(lists.get(exchange, ())), latency_ns)


def _import_tables(jobs: Sequence[_Job], processes: int, progress: Progress) -> list[Imported]:
    """Each job's import, in their order, `processes` files at a time."""
    total, done = sum(job.file.size for job in jobs), 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        progress("importing", done, total)

    return over_processes(_import_table, jobs, processes, advance)


def _import_table(job: _Job, advance: Advance) -> Imported:
    reached = 0

    def at(what: str, position: int, size: int) -> None:
        nonlocal reached
        advance(position - reached)
        reached = position

    imported = _table(job, at)
    advance(job.file.size - reached)
    return imported


def _table(job: _Job, progress: Progress) -> Imported:
    file, settings, scratch = job.file, job.settings, job.scratch
    with tempfile.TemporaryDirectory(prefix="perpflow-") as directory:
        source = fetch(file.url, Path(directory))
        digest = settings.digest(*file.layout.facts, source.sha256)
        done = find(scratch, digest)
        if done is not None:
            return replace(done, sources=[done.sources[0] | {"url": file.url}])
        contracts = Contracts(settings.exchange, settings.lists)
        imported = import_table(
            source, file.layout, contracts, settings.latency_ns, digest, scratch, progress
        )
        finish(scratch, imported)
        return imported


def _import_frames(
    files: Sequence[_File],
    options: ImportOptions,
    lists: dict[str, list[Dated]],
    scratch: Store,
    progress: Progress,
) -> Iterator[Imported]:
    with tempfile.TemporaryDirectory(prefix="perpflow-") as directory:
        by_exchange: dict[str, list[Input]] = {}
        for file in files:
            source = fetch(file.url, Path(directory))
            header = read_header(source.path)
            said = Layout(FRAMES, exchange=header.exchange if header else None)
            exchange = _exchange_of(_File(file.url, said, file.size), options)
            by_exchange.setdefault(exchange, []).append(source)
        for exchange, of in by_exchange.items():
            sources = list({source.sha256: source for source in reversed(of)}.values())
            settings = _settings(exchange, lists, None)
            digest = settings.digest(FRAMES, *sorted(source.sha256 for source in sources))
            done = find(scratch, digest)
            if done is None:
                done = import_frames(
                    sources, exchange, settings.lists, digest, scratch, options.processes, progress
                )
                finish(scratch, done)
            again = [same_content(source.url) for source in of if source not in sources]
            yield replace(done, problems=done.problems + again)
