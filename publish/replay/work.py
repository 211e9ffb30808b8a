"""The units of a replay, done one by one or over processes; what is finished is not done again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import product
from time import perf_counter

from aggregate.datasets import datasets
from aggregate.intervals import CLOCKS, LADDER
from publish.bar_files import Month
from publish.layout import CLOSED, Series, instrument_path, month_key
from publish.partitions import read_month
from publish.replay.manifest import Manifest, code_version, identity, read_manifest
from publish.replay.month import Account, Inputs, MonthUnit, inputs, month_bars
from publish.replay.processes import Advance, over_processes
from publish.replay.writing import Changes, Made, ReplayError, UnitWriter, held_already, short_name
from publish.settings import PublishSettings
from publish.store import Store, StoreError, open_store


@dataclass(frozen=True, slots=True)
class Job:
    """A unit and where its bars go. `arrival`: how its ticks' arrival times are known."""

    unit: MonthUnit
    out: PublishSettings
    arrival: str
    force: bool = False
    dry: bool = False


@dataclass(frozen=True, slots=True)
class Examined:
    """What is known of a job before it is done. `refused`: why it must not be."""

    job: Job
    made: Made
    rows: int
    finished: Manifest | None = None
    refused: str = ""
    kept: tuple[date, ...] = ()
    """Days of the month that stay beside what is replayed."""


@dataclass(slots=True)
class Result:
    """What came of a job; `skipped`: it was finished before."""

    unit: MonthUnit
    account: Account = field(default_factory=Account)
    changes: Changes = field(default_factory=Changes)
    bars: int = 0
    seconds: float = 0.0
    skipped: bool = False
    problem: str = ""


def examine(job: Job) -> Examined:
    """Whether it is finished, and whether it may be done. Raises `StoreError`."""
    unit, store = job.unit, open_store(job.out)
    found = inputs(unit)
    settings = {
        "lateness_ns": unit.rules.lateness_ns,
        "hold_ns": unit.rules.hold_ns,
        "partial": unit.rules.partial,
        "toxicity_reset": unit.rules.toxicity_reset,
        "clocks": sorted(unit.clocks),
    }
    digests = sorted(found.sources.values())
    made = Made(
        identity(digests, found.facts, settings, job.arrival, code_version()),
        job.arrival,
        settings,
        found.sources,
    )
    months = _months(store, unit)
    finished = _finished(store, unit, made, months)
    if finished is not None:
        return Examined(job, made, found.rows, finished)
    return Examined(job, made, found.rows, None, *_overlap(store, job, made, found, months))


def _months(store: Store, unit: MonthUnit) -> dict[Series, Month]:
    """The month files there are."""
    there: dict[Series, Month] = {}
    for dataset in datasets():
        where = instrument_path(unit.exchange, unit.symbol)
        keys = set(store.list(f"{CLOSED}/{dataset.name}/{where}"))
        for interval, clock in product(LADDER, CLOCKS):
            series = Series(dataset.name, unit.exchange, unit.symbol, interval.name, clock)
            if month_key(series, unit.year, unit.month) in keys:
                there[series] = read_month(store, series, unit.year, unit.month)
    return there


def _finished(
    store: Store, unit: MonthUnit, made: Made, months: dict[Series, Month]
) -> Manifest | None:
    """A manifest of the unit, if all it made is there as it left it."""
    mine = [series for series, month in months.items() if month.replay == made.identity]
    found = None
    for series in mine:
        found = read_manifest(store, series, unit.year, unit.month)
        if found is None or found.replay != made.identity:
            return None
    names = {short_name(series) for series in mine}
    return found if found is not None and names == set(found.series) else None


def _overlap(
    store: Store, job: Job, made: Made, found: Inputs, months: dict[Series, Month]
) -> tuple[str, tuple[date, ...]]:
    """Why the days must not be replaced ("": they may), and which stay."""
    days, kept, refused = set(found.days), set[date](), ""
    for series, month in months.items():
        if month.replay == made.identity:
            continue
        both = sorted(month.days & days)
        if both and not job.force and not refused and not job.dry:
            refused = held_already(store, series, both)
        if series.dataset == "flow":
            kept |= month.days - days
    return refused, tuple(sorted(kept))


def perform(examined: Examined, advance: Advance = lambda ticks: None) -> Result:
    """Do a job. Raises `ReplayError`, `StoreError`."""
    job, started = examined.job, perf_counter()
    unit, result = job.unit, Result(job.unit)
    if examined.finished is not None:
        result.skipped = True
        return result
    account = result.account
    store = open_store(job.out)
    reported = 0
    when = unit.year, unit.month
    with UnitWriter(store, *when, examined.made, force=job.force, dry=job.dry) as writer:
        for series, day, table in month_bars(unit, account):
            writer.add(series, day, table)
            read = account.read.total()
            if read != reported:
                advance(read - reported)
                reported = read
        advance(account.read.total() - reported)
        result.changes = writer.publish(account.gaps)
        result.bars = writer.bars
    result.seconds = perf_counter() - started
    return result


def examine_all(jobs: Sequence[Job], processes: int, advance: Advance) -> list[Examined]:
    """All jobs looked at, in their order."""
    return over_processes(_examine, jobs, processes, advance)


def perform_all(jobs: Sequence[Examined], processes: int, advance: Advance) -> list[Result]:
    """All jobs done, in their order; what failed says so in its result, the others go on."""
    return over_processes(_perform, jobs, processes, advance)


def _examine(job: Job, advance: Advance) -> Examined:
    found = examine(job)
    advance(1)
    return found


def _perform(job: Examined, advance: Advance) -> Result:
    try:
        return perform(job, advance)
    except (ReplayError, StoreError) as error:
        return Result(job.job.unit, problem=str(error))
