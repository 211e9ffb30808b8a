"""`perpflow replay`: history to monthly parquet, by the code that live runs on.

sources ─▶ raw area ─▶ units (exchange, symbol, month) ─▶ bars ─▶ month files and manifests
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import has_magic
from pathlib import Path
from time import perf_counter

from aggregate.shard import Rules
from ingest.instruments import OKX
from publish import lease
from publish.progress import Progress, quiet
from publish.raw_chunks import ROOT as OPEN_DAYS
from publish.raw_days import ROOT as DAYS
from publish.replay.importing import ImportOptions, import_all
from publish.replay.plan import RECORDED, archived_units, imported_units
from publish.replay.summary import ReplaySummary
from publish.replay.ticks_in import Area
from publish.replay.work import Examined, Job, examine_all, perform_all
from publish.replay.writing import ReplayError, sweep
from publish.settings import PublishSettings
from publish.store import open_store

__all__ = ["ReplayError", "ReplayOptions", "ReplaySummary", "replay"]

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What to replay and where to. `lateness_ns` None: no tick is too late (the whole truth).

    `sources`: an own archive (its directory or URL), or files, globs and URLs of files.
    `exchange`: of files that don't say it, and of an archive that one alone. `publish`: how to
    reach stores, but not which. `scratch`: where imports stay for the next time; None: they don't.
    """

    sources: Sequence[str | Path]
    exchange: str | None
    out: str
    partial: bool = False
    lateness_ns: int | None = None
    instruments: Sequence[str | Path] = ()
    assume_latency_ns: int | None = None
    processes: int = 1
    force: bool = False
    dry: bool = False
    scratch: Path | None = None
    toxicity_reset: str = "month"
    publish: PublishSettings = field(default_factory=PublishSettings)

    @property
    def rules(self) -> Rules:
        return Rules(
            lateness_ns=self.lateness_ns,
            partial=self.partial,
            toxicity_reset=self.toxicity_reset,
        )

    @property
    def place(self) -> PublishSettings:
        """Where the bars go."""
        return self.publish.model_copy(update={"url": self.out})


def replay(options: ReplayOptions, progress: Progress = quiet) -> ReplaySummary:
    """Make and publish the bars of the sources; what is finished is not done again.

    Raises `ReplayError`, `SourceError`, `RecordingError` or `StoreError`.
    """
    started = perf_counter()
    store = open_store(options.place)
    if not options.dry:
        store.check()
    sweep()
    summary = ReplaySummary(options.out, options.dry)
    with jobs_of(options, summary, progress) as (jobs, imported):
        examined = _examined(jobs, options, summary, progress)
        if not options.dry:
            lease.check(store)
        total, done = sum(of.rows for of in examined if of.finished is None), 0

        def advance(ticks: int) -> None:
            nonlocal done
            done += ticks
            progress("replaying", done, total)

        results = perform_all(examined, options.processes, advance)
    summary.finish(results, imported)
    summary.seconds = perf_counter() - started
    problems = [of.problem for of in results if of.problem]
    if problems:
        raise ReplayError("\n".join(dict.fromkeys(problems)))
    if not summary.bars and not any(of.skipped for of in results):
        raise ReplayError(_nothing(summary, options))
    return summary


@contextmanager
def jobs_of(
    options: ReplayOptions, summary: ReplaySummary, progress: Progress
) -> Iterator[tuple[list[Job], bool]]:
    """The work there is, as long as its raw area lasts; whether it was imported."""
    archive = _archive(options)
    if archive is not None:
        units = [
            Job(unit, options.place, RECORDED, options.force, options.dry)
            for unit in archived_units(archive, options.rules)
            if options.exchange in (None, unit.exchange)
        ]
        yield units, False
        return
    with _scratch(options) as place:
        asked = ImportOptions(
            options.exchange,
            tuple(map(str, options.instruments)),
            options.assume_latency_ns,
            options.processes,
        )
        sources = [str(source) for source in options.sources]
        imports = import_all(sources, asked, open_store(place), progress)
        summary.import_(imports)
        yield (
            [
                Job(unit, options.place, arrival, options.force, options.dry)
                for unit, arrival in imported_units(place, imports, options.rules)
            ],
            True,
        )


def _archive(options: ReplayOptions) -> Area | None:
    """The own archive that is to be replayed, if it is one."""
    found = [place for source in options.sources if (place := _own(options, str(source)))]
    if not found:
        return None
    if len(options.sources) > 1:
        raise ReplayError(f"{found[0].url} is an archive: replay it by itself")
    return Area(found[0])


def _own(options: ReplayOptions, source: str) -> PublishSettings | None:
    url = source
    if has_magic(source):
        return None
    if not source.startswith(("file://", "s3://")):
        if not Path(source).is_dir():
            return None
        url = f"file://{Path(source).absolute()}"
    place = options.publish.model_copy(update={"url": url})
    store = open_store(place)
    return place if store.children(DAYS) or store.children(OPEN_DAYS) else None


@contextmanager
def _scratch(options: ReplayOptions) -> Iterator[PublishSettings]:
    if options.scratch is not None:
        yield PublishSettings(url=f"file://{options.scratch.absolute()}")
        return
    with tempfile.TemporaryDirectory(prefix="perpflow-import-") as directory:
        yield PublishSettings(url=f"file://{directory}")


def _examined(
    jobs: Sequence[Job], options: ReplayOptions, summary: ReplaySummary, progress: Progress
) -> list[Examined]:
    """Every job looked at before any is done: what may not be replaced stops all."""
    seen = 0

    def advance(n: int) -> None:
        nonlocal seen
        seen += n
        progress("examining", seen, len(jobs))

    examined = examine_all(jobs, options.processes, advance)
    refused = [of.refused for of in examined if of.refused]
    if refused:
        raise ReplayError(refused[0])
    kept = {day for of in examined for day in of.kept}
    if kept:
        summary.problems.append(
            f"{len(kept)} other days of these months stay as they are; flow_toxicity_score runs "
            f"through a month: replay a month as a whole for scores that do"
        )
    return examined


def _nothing(summary: ReplaySummary, options: ReplayOptions) -> str:
    if summary.trades or summary.quotes:
        return (
            "the data covers no whole window of any interval: pass --partial to publish the "
            "incomplete ones"
        )
    reasons = [f"{n:,} malformed ({reason})" for reason, n in summary.malformed.items()]
    reasons += [f"{n:,} of unknown symbol {s}" for s, n in summary.unknown.most_common(_SHOWN)]
    reasons += [f"{summary.ignored:,} of other channels"] if summary.ignored else []
    hint = ""
    if summary.unknown and not options.instruments:
        why = "contract sizes are not in a name: " if options.exchange == OKX else ""
        hint = f"; {why}pass --instruments with the venue's list"
    return (
        f"no trades or quotes of {options.exchange or 'any venue'} in {summary.frames:,} frames: "
        f"{', '.join(reasons) or 'no frames'}{hint}"
    )
