"""The end of tasks: by whoever started them, and never left behind."""

import asyncio
from typing import Any


async def cancelled(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel what is still under way, and return when it has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def raise_first(*tasks: "asyncio.Future[Any]") -> None:
    """Raise what ended a task that should not have ended."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
