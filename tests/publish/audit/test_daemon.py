"""When the daemon is due, and what it does about what can't be audited yet."""

import asyncio
import os
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from ingest.errors import UserError
from publish.audit import daemon
from publish.audit.daemon import PATIENCE, watch
from publish.audit.plan import NothingToAudit, Wanted
from publish.audit.report import AuditReport
from publish.progress import Progress
from publish.settings import AuditSettings, Settings
from tests.ingest.simulating import eventually

MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC)
SETTINGS = Settings(audit=AuditSettings(settle="20m", repair=True))
NOON = MIDNIGHT + timedelta(hours=12)
YESTERDAY = date(2026, 11, 20)


class Audits:
    """In place of the audit: what was asked for, and what it answers in turn."""

    def __init__(self, *answers: AuditReport | UserError) -> None:
        self.answers = list(answers)
        self.asked: list[Wanted] = []

    def __call__(
        self, settings: Settings, wanted: Wanted, processes: int, progress: Progress
    ) -> AuditReport:
        self.asked.append(wanted)
        answer = self.answers.pop(0)
        if isinstance(answer, UserError):
            raise answer
        return answer


async def run(
    monkeypatch: pytest.MonkeyPatch, audits: Audits, now: datetime, json: Path | None = None
) -> None:
    """Until every answer was given: it waits no longer than to be stopped then."""

    async def waits(stopping: asyncio.Event, seconds: float) -> None:
        if not audits.answers:
            stopping.set()

    monkeypatch.setattr(daemon, "audit", audits)
    monkeypatch.setattr(daemon, "_until", waits)
    await asyncio.wait_for(watch(SETTINGS, 1, json, None, lambda: now), 20)


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
    audits = Audits(UserError("the store fails"), waiting, other)
    path = tmp_path / "audit.json"
    await run(monkeypatch, audits, MIDNIGHT + timedelta(hours=1), path)
    assert len(audits.asked) == 3
    assert b'"audited": "y"' in path.read_bytes()
    assert os.listdir(tmp_path) == ["audit.json"]


async def test_its_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = AuditReport("x", waiting={"has no raw files yet": {YESTERDAY}})
    nothing = NothingToAudit("a store without raw ticks")
    for answer in (waiting, nothing):
        state = daemon._Watch(SETTINGS, 1, None, lambda: NOON - 2 * PATIENCE, asyncio.Event())
        monkeypatch.setattr(daemon, "audit", Audits(answer, answer))
        assert not state.attempt(YESTERDAY)
        state.now = lambda: NOON
        assert state.attempt(YESTERDAY)


async def test_what_fails_is_counted_and_what_is_not_there_yet_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = REGISTRY.get_sample_value("perpflow_audit_failures_total")
    answers = NothingToAudit("too early"), UserError("killed"), AuditReport("x")
    await run(monkeypatch, Audits(*answers), MIDNIGHT + timedelta(hours=1))
    assert REGISTRY.get_sample_value("perpflow_audit_failures_total") == before + 1


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
