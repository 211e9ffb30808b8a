"""Work on a store while a stop is asked for."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from publish import retries
from publish.retries import StoreWork, Unfinished
from publish.store import StoreError
from tests.publish.waiting import DEADLINE_S, until


async def test_a_stop_ends_work_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks not begun are left, those under way are waited for: nothing goes on behind."""
    monkeypatch.setattr(retries, "STOP_S", 0.1)
    stopping, let_go = asyncio.Event(), threading.Event()
    begun, ended = [], []

    def task(number: int) -> None:
        begun.append(number)
        assert let_go.wait(DEADLINE_S)
        ended.append(number)

    with ThreadPoolExecutor(2) as threads:
        work = StoreWork(threads, stopping)
        tasks = [lambda n=n: task(n) for n in range(5)]
        running = asyncio.create_task(work.until_done("write", tasks))
        await until(lambda: len(begun) == 2)
        stopping.set()
        await asyncio.sleep(0.2)  # the stop's time passes
        assert not running.done()
        let_go.set()
        with pytest.raises(Unfinished, match="3 of 5"):
            await asyncio.wait_for(running, DEADLINE_S)
    assert sorted(begun) == sorted(ended) == [0, 1]


async def test_a_stop_lets_work_end_that_is_done_in_time() -> None:
    stopping = asyncio.Event()
    stopping.set()
    done: list[int] = []
    with ThreadPoolExecutor(2) as threads:
        work = StoreWork(threads, stopping)
        await work.until_done("write", [lambda n=n: done.append(n) for n in range(50)])
    assert sorted(done) == list(range(50))


async def test_a_store_that_fails_at_a_stop_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "STOP_S", 0.1)
    monkeypatch.setattr(retries, "RETRY_S", (0.02, 0.02))
    stopping = asyncio.Event()
    stopping.set()

    def fails() -> None:
        raise StoreError("the disk is full")

    said = r"the disk is full \(1 tasks left"
    with ThreadPoolExecutor(1) as threads, pytest.raises(StoreError, match=said):
        await StoreWork(threads, stopping).until_done("write", [fails])
