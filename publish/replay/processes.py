"""Work over processes: its progress is the caller's, and it ends with the caller."""

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from multiprocessing.queues import SimpleQueue
from threading import Thread
from typing import Any

from ingest.killed import told_of_killed

Advance = Callable[[int], None]
"""Called with how much more was done: ticks or bytes."""


def over_processes(
    work: Callable[[Any, Advance], Any], jobs: Sequence[Any], processes: int, advance: Advance
) -> list[Any]:
    """What `work` makes of each job, in their order; `work` and jobs are picklable.

    `work` is given what to call as it goes on. Raises what it raises; the others are ended then.
    """
    if processes == 1 or len(jobs) < 2:
        return [work(job, advance) for job in jobs]
    # Forking a process that has threads (Arrow's) can deadlock the child.
    context = get_context("spawn")
    told: SimpleQueue[int] = context.SimpleQueue()
    listener = Thread(target=_listen, args=(told, advance), daemon=True)
    listener.start()
    workers = min(processes, len(jobs))
    try:
        with (
            told_of_killed("replays", after="; what is finished is not done again"),
            ProcessPoolExecutor(workers, context, _start, (told,)) as pool,
        ):
            futures = [pool.submit(_in_worker, work, job) for job in jobs]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                # What is under way would take minutes; the next start does it again.
                for worker in active_children():
                    worker.terminate()
                raise
            finally:
                pool.shutdown(cancel_futures=True)
            return [future.result() for future in futures]
    finally:
        told.put(-1)
        listener.join()


def _listen(told: "SimpleQueue[int]", advance: Advance) -> None:
    while (ticks := told.get()) >= 0:
        advance(ticks)


_told: "SimpleQueue[int] | None" = None


def _start(told: "SimpleQueue[int]") -> None:
    global _told
    _told = told
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it


def _in_worker(work: Callable[[Any, Advance], Any], job: Any) -> Any:
    assert _told is not None
    return work(job, _told.put)
