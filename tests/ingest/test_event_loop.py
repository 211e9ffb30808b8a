"""Which event loop the daemons run on, and how late it is."""

import asyncio
import sys
import time

import pytest

from ingest import event_loop


def loop_of(**options: bool) -> str:
    found = []

    async def look() -> None:
        found.append(event_loop.name())

    event_loop.run(look(), **options)
    return found[0]


def test_it_is_uvloop_unless_that_is_turned_off() -> None:
    assert loop_of() == "uvloop"
    assert loop_of(uvloop=False) == "asyncio"


def test_where_there_is_no_uvloop_it_is_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)  # importing it fails
    assert loop_of() == "asyncio"


async def test_a_loop_that_is_held_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "SAMPLE_S", 0.01)

    class Told:
        most = 0.0

        def observe(self, amount: float) -> None:
            self.most = max(self.most, amount)

    told = Told()
    async with event_loop.lag_told(told):
        await asyncio.sleep(0.05)
        time.sleep(0.3)  # noqa: ASYNC251 (what holds a loop)
        await asyncio.sleep(0.05)
    assert 0.2 < told.most < 30
    assert len(asyncio.all_tasks()) == 1, "the sampling goes on"
