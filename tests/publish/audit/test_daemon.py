"""When the daemon is due, and what it does about what can't be audited yet."""

import asyncio
import os
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from publish.audit import daemon
from publish.audit.daemon import watch
from publish.audit.plan import AuditError, Wanted
from publish.audit.report import AuditReport
from publish.progress import Progress
from publish.settings import AuditSettings, Settings
from tests.ingest.simulating import eventually

MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC)
SETTINGS = Settings(audit=AuditSettings(settle="20m", repair=True))
YESTERDAY = date(2026, 11, 20)


class Audits:
    """In place of the audit: what was asked for, and what it answers in turn; then a stop."""

    def __init__(self, *answers: AuditReport | AuditError) -> None:
        self.answers = list(answers)
        self.asked: list[Wanted] = []
        self.stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(
        self, settings: Settings, wanted: Wanted, processes: int, progress: Progress
    ) -> AuditReport:
        self.asked.append(wanted)
        answer = self.answers.pop(0)
        if not self.answers:
            self._loop.call_soon_threadsafe(self.stopping.set)
        if isinstance(answer, AuditError):
            raise answer
        return answer


async def run(
    monkeypatch: pytest.MonkeyPatch, audits: Audits, now: datetime, json: Path | None = None
) -> None:
    monkeypatch.setattr(daemon, "audit", audits)
    monkeypatch.setattr(daemon, "RETRY_S", 0.01)
    await asyncio.wait_for(watch(SETTINGS, 1, json, audits.stopping, lambda: now), 20)


@pytest.mark.parametrize(
    ("minutes", "wanted"),
    [
        (19, Wanted(2026, 11, repair=True)),
        (21, Wanted(2026, 11, repair=True)),
        (10 * 24 * 60 + 19, Wanted(2026, 11, repair=True)),
        (10 * 24 * 60 + 21, Wanted(2026, 11, repair=True)),
        (11 * 24 * 60 + 21, Wanted(2026, 12, repair=True)),
    ],
)
async def test_the_month_of_the_last_day_that_is_settled(
    monkeypatch: pytest.MonkeyPatch, minutes: int, wanted: Wanted
) -> None:
    audits = Audits(AuditReport("x"))
    await run(monkeypatch, audits, MIDNIGHT + timedelta(minutes=minutes))
    assert audits.asked == [wanted]


async def test_it_tries_again_until_the_day_has_its_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waiting = AuditReport("x", waiting={"has no raw files yet": {YESTERDAY}})
    other = AuditReport("y", waiting={"is not over": {date(2026, 11, 3)}})
    audits = Audits(AuditError("the store fails"), waiting, other)
    path = tmp_path / "audit.json"
    await run(monkeypatch, audits, MIDNIGHT + timedelta(hours=1), path)
    assert len(audits.asked) == 3
    assert b'"audited": "y"' in path.read_bytes()
    assert os.listdir(tmp_path) == ["audit.json"]


async def test_its_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = AuditReport("x", waiting={"has no raw files yet": {YESTERDAY}})
    audits = Audits(waiting)
    await run(monkeypatch, audits, MIDNIGHT + timedelta(hours=6, minutes=1))
    assert len(audits.asked) == 1


def test_it_sleeps_until_the_next_day_is_settled() -> None:
    now = MIDNIGHT + timedelta(hours=1)
    state = daemon._Watch(SETTINGS, 1, None, lambda: now, asyncio.Event())
    assert state.due() == YESTERDAY
    assert state.wait_s() == timedelta(hours=23, minutes=20).total_seconds()
    assert not state.caught_up
    state.done = YESTERDAY
    assert state.caught_up
    state.now = lambda: now + timedelta(hours=24)
    assert not state.caught_up


async def test_a_stop_before_the_work_begins_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    ended: list[BaseException] = []

    def planning(
        settings: Settings, wanted: Wanted, processes: int, progress: Progress
    ) -> AuditReport:
        loop.call_soon_threadsafe(stopping.set)
        try:
            while True:
                progress("auditing", 0, 1)
                time.sleep(0.01)
        except BaseException as error:
            ended.append(error)
            raise

    monkeypatch.setattr(daemon, "audit", planning)
    now = MIDNIGHT + timedelta(hours=1)
    await asyncio.wait_for(watch(SETTINGS, 1, None, stopping, lambda: now), 20)
    await eventually(lambda: bool(ended))
    assert isinstance(ended[0], daemon._Stopping)
