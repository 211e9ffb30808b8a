"""`perpflow audit`: plan, work on many instruments at once, report."""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

from aggregate.shard import Rules
from ingest.killed import told_of_killed
from publish.audit.plan import Plan, Wanted, plan
from publish.audit.report import AuditReport
from publish.audit.unit import UnitReport, audit_unit
from publish.progress import Progress, quiet
from publish.replay.ticks_in import Area
from publish.settings import Settings

WIDTH = 140
"""Columns, where there is no terminal to ask."""


def audit(
    settings: Settings, wanted: Wanted, processes: int, progress: Progress = quiet
) -> AuditReport:
    """Audit what is wanted of the days that are over.

    Raises `NothingToAudit`, `UserError` and `StoreError`.
    """
    began = time.monotonic()
    area, rules = Area(settings.publish), rules_of(settings)
    if wanted.repair:
        area.open().check()
    planned = plan(area, rules, wanted, datetime.now(UTC).date())
    report = AuditReport(str(wanted), waiting=planned.waiting)
    progress("auditing", 0, len(planned.units))
    for done, unit in enumerate(_audited(planned, processes), 1):
        report.units.append(unit)
        progress("auditing", done, len(planned.units))
    report.units.sort(key=lambda unit: (unit.unit.live.exchange, unit.unit.live.symbol))
    report.seconds = time.monotonic() - began
    return report


def rules_of(settings: Settings) -> Rules:
    """Those that live runs under."""
    chosen = settings.aggregate
    return Rules(chosen.hold, chosen.lateness, toxicity_reset=chosen.toxicity_reset)


def _audited(planned: Plan, processes: int) -> Iterator[UnitReport]:
    """As they are done."""
    if not planned.units:
        return
    workers = min(processes, len(planned.units))
    with (
        told_of_killed("audits", after="; what was repaired stays repaired"),
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
    ):
        try:
            for done in as_completed([pool.submit(audit_unit, unit) for unit in planned.units]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def wanted_days(month: str | None, day: str | None, today: date) -> tuple[int, int, int | None]:
    """Year, month and day of --month and --day; by default yesterday's month.

    Raises ValueError saying what is allowed.
    """
    if month and day:
        raise ValueError("give --month or --day, not both")
    if day:
        try:
            chosen = date.fromisoformat(day)
        except ValueError:
            raise ValueError(f'--day {day}: should be a day like "2026-11-20"') from None
        return chosen.year, chosen.month, chosen.day
    if month:
        try:
            first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        except ValueError:
            raise ValueError(f'--month {month}: should be a month like "2026-11"') from None
        return first.year, first.month, None
    yesterday = today - timedelta(days=1)
    return yesterday.year, yesterday.month, None


def write_json(path: Path, report: AuditReport) -> None:
    """Replace the file whole: others may be reading it. Raises OSError."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(report.json())
    beside.replace(path)


def show(report: AuditReport) -> None:
    """Print the tables."""
    from rich.console import Console

    from publish.audit.table import tables

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(tables(report))
