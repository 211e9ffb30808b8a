"""A log that can't be reached when a daemon starts: told, and tried until it can."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from ingest.log import Fenced, LogError, TopicMismatch
from ingest.trouble import Trouble

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0
_REFUSED = (TopicMismatch, Fenced)

T = TypeVar("T")


async def until_answered(
    ask: Callable[[], Awaitable[T]], stopping: asyncio.Event, who: str
) -> T | None:
    """What `ask` returns, once the log lets it; None if `stopping` was set before.

    Raises what waiting doesn't mend: `TopicMismatch`, `Fenced`.
    """
    log = structlog.get_logger(__name__).bind(waiting=who)
    trouble = Trouble(log, "the log can't be reached, trying again", "the log is there again")
    stop = asyncio.create_task(stopping.wait())
    delay = FIRST_DELAY_S
    try:
        while not stopping.is_set():
            asking = asyncio.ensure_future(ask())
            try:
                await asyncio.wait({stop, asking}, return_when=asyncio.FIRST_COMPLETED)
                if not asking.done():
                    return None
                answer = asking.result()
            except _REFUSED:
                raise
            except LogError as error:
                trouble.failed(str(error))
            else:
                trouble.over()
                return answer
            finally:
                asking.cancel()
            await asyncio.wait({stop}, timeout=delay * random.uniform(0.75, 1.0))
            delay = min(2 * delay, MAX_DELAY_S)
        return None
    finally:
        stop.cancel()
