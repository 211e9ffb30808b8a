"""`perpflow audit --watch`: the days that are over audited after each midnight, as a daemon."""

import asyncio
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from ingest.errors import UserError
from publish import health
from publish.audit import metrics
from publish.audit.causes import CAUSES
from publish.audit.command import audit, write_json
from publish.audit.plan import NothingToAudit, Wanted
from publish.audit.report import DEFECT, AuditReport
from publish.settings import Settings
from publish.stopping import deadline, on_signals

RETRY_S = 300.0
"""Until a day whose files are still being made, or an audit that failed, is tried again."""
PATIENCE = timedelta(hours=6)
"""So long after midnight what can be audited is, whatever is still missing."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Watch:
    settings: Settings
    processes: int
    json: Path | None
    now: Callable[[], datetime]
    stopping: asyncio.Event
    done: date | None = None
    """The last day of which the audit has ended."""

    def due(self) -> date:
        """The last day that should have been audited by now."""
        settle = timedelta(microseconds=self.settings.audit.settle / 1000)
        return (self.now() - settle).date() - timedelta(days=1)

    @property
    def caught_up(self) -> bool:
        return self.done is not None and self.done >= self.due()

    def wait_s(self) -> float:
        """Until the next day is due (s)."""
        settle = timedelta(microseconds=self.settings.audit.settle / 1000)
        next_day = datetime.combine(self.due() + timedelta(days=2), datetime.min.time(), UTC)
        return (next_day + settle - self.now()).total_seconds()

    def attempt(self, day: date) -> bool:
        """Audit the day's month up to it; whether that is all for now."""
        wanted = Wanted(day.year, day.month, repair=self.settings.audit.repair)
        try:
            report = audit(self.settings, wanted, self.processes, self._unless_stopping)
        except NothingToAudit as error:
            _log.info("nothing to audit yet", why=str(error))
            return self._patience_is_over(day)
        except UserError as error:
            if self.stopping.is_set():
                return False
            metrics.FAILURES.inc()
            _log.warning("not audited, trying again", problem=str(error), retry_s=RETRY_S)
            return False
        metrics.export(report)
        _tell(report)
        if self.json is not None:
            write_json(self.json, report)
        waits = any(day in days for days in report.waiting.values())
        return not waits or self._patience_is_over(day)

    def _patience_is_over(self, day: date) -> bool:
        return self.now() - datetime.combine(day, datetime.max.time(), UTC) > PATIENCE

    def _unless_stopping(self, what: str, done: int, total: int) -> None:
        """Before any process is started, and after each instrument."""
        if self.stopping.is_set():
            raise _Stopping


class _Stopping(UserError):
    """The audit is given up."""


def _tell(report: AuditReport) -> None:
    causes = report.causes()
    tell = _log.error if report.exit_code == DEFECT else _log.info
    tell(
        "audited",
        of=report.wanted,
        instruments=len(report.units),
        bars=sum(unit.bars for unit in report.units),
        differ={cause.value: causes[cause] for cause in CAUSES if causes[cause]},
        repaired=sum(len(unit.repaired) for unit in report.units),
        waiting={why: sorted(map(str, days)) for why, days in report.waiting.items()},
        seconds=round(report.seconds, 1),
    )


async def watch(
    settings: Settings,
    processes: int = 1,
    json: Path | None = None,
    stopping: asyncio.Event | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Audit what is due, then after each UTC midnight, until SIGTERM, SIGINT or `stopping`.

    `json`: the file of the last report. What can't be audited is told and tried again.
    """
    stopping = on_signals(stopping)
    state = _Watch(settings, processes, json, now, stopping)
    async with health.served(settings.metrics, lambda: state.caught_up):
        _log.info("running")
        metrics.LAST.set_to_current_time()
        while not stopping.is_set():
            if state.caught_up:
                await _until(stopping, state.wait_s())
                continue
            day = state.due()
            if await _on_thread(lambda day=day: state.attempt(day), stopping):  # type: ignore[misc]
                state.done = day
            else:
                await _until(stopping, RETRY_S)
    _log.info("stopped")


async def _until(stopping: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), max(seconds, 0.0))


async def _on_thread(work: Callable[[], bool], stopping: asyncio.Event) -> bool:
    """What `work` returns; at a stop its processes are ended, and it is no longer waited for."""
    result: Future[bool] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="audit", daemon=True).start()
    working = asyncio.wrap_future(result)
    stop = asyncio.create_task(stopping.wait())
    either: set[asyncio.Future[Any]] = {working, stop}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        stop.cancel()
        return working.result()
    with deadline():
        # A repair that is cut off leaves the file as it was, or as it is to be.
        while not working.done() and multiprocessing.active_children():
            for child in multiprocessing.active_children():
                child.terminate()
            await asyncio.sleep(0.05)
    return False
