"""The event loop that the daemons run on: uvloop where it is installed (not on Windows)."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol

from ingest.tasks import cancelled

SAMPLE_S = 0.5


class Histogram(Protocol):
    """What is told how late the loop was."""

    def observe(self, amount: float) -> None: ...


def run(work: Coroutine[Any, Any, None], *, uvloop: bool = True) -> None:
    """Run to its end, on uvloop if that is wanted and there."""
    with asyncio.Runner(loop_factory=_uvloop() if uvloop else None) as runner:
        runner.run(work)


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


def name() -> str:
    """Of the running loop: "uvloop" or "asyncio"."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@contextlib.asynccontextmanager
async def lag_told(histogram: Histogram) -> AsyncIterator[None]:
    """While in the block, observe twice a second how late (s) the loop comes to what is due."""

    async def sample() -> None:
        while True:
            due = time.monotonic() + SAMPLE_S
            await asyncio.sleep(SAMPLE_S)
            histogram.observe(max(0.0, time.monotonic() - due))

    sampling = asyncio.create_task(sample())
    try:
        yield
    finally:
        await cancelled(sampling)
