"""A publisher, as a process that ends itself with SIGKILL at a named point; for tests only."""

import asyncio
import importlib
import inspect
import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ingest.log.sqlite import SqliteLog
from publish.publisher import Publisher
from publish.store import Store

POINTS = {
    "before a part is put": ("publish.partitions", "put_part", False),
    "after a part is put, before the commit": ("publish.partitions", "put_part", True),
    "while files are given a new column": ("publish.columns", "_widen", True),
    "before the commit": ("ingest.log.sqlite", "SqliteLog.commit", False),
    "after the commit": ("ingest.log.sqlite", "SqliteLog.commit", True),
    "before the month is replaced": ("publish.partitions", "replace_days", False),
    "after the month is replaced, before the commit": ("publish.partitions", "replace_days", True),
    "after a month is fixed, before it is replaced": ("publish.store", "Store.copy", False),
    "after a file is renamed": ("publish.store", "_sync_directory", False),
}
"""Module, function, and whether after it rather than before."""
DISCARD_POINTS = {
    "before a day's parts are deleted": ("publish.open_days", "discard", False),
    "after one of a day's parts is deleted": ("publish.store", "Store.delete", True),
}
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.publish.killed_publisher"])


def publish_until_killed(
    log: Path, url: str, endpoint: str | None, point: str, number: int, grace_s: float
) -> int | None:
    """Run a publisher that is killed when it comes to the point the `number`-th time; exit code."""
    credentials = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    arguments = (log, url, endpoint, point, number, grace_s, credentials)
    process = _CONTEXT.Process(target=_publish, args=arguments, daemon=True)
    process.start()
    process.join(60)
    code = process.exitcode
    process.kill()
    process.join()
    return code


def _publish(
    path: Path,
    url: str,
    endpoint: str | None,
    point: str,
    number: int,
    grace_s: float,
    environment: dict[str, str],
) -> None:
    os.environ |= environment
    module, name, after = (POINTS | DISCARD_POINTS)[point]
    owner: Any = importlib.import_module(module)
    *outer, name = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    setattr(owner, name, _killing(getattr(owner, name), number, after))

    async def main() -> None:
        store = Store(url, endpoint_url=endpoint)
        await Publisher(SqliteLog(path), store, flush_s=0.02, grace_s=grace_s).run()

    asyncio.run(main())


def _killing(original: Callable[..., Any], number: int, after: bool) -> Callable[..., Any]:
    left = number

    def step(done: bool) -> None:
        nonlocal left
        if done == after:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def call(*args: Any, **kwargs: Any) -> Any:
        step(False)
        result = original(*args, **kwargs)
        step(True)
        return result

    async def wait(*args: Any, **kwargs: Any) -> Any:
        step(False)
        result = await original(*args, **kwargs)
        step(True)
        return result

    return wait if inspect.iscoroutinefunction(original) else call
