"""How a daemon stops: asked by a signal, gone within 10 s."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import structlog

STOP_S = 9.5
"""A daemon is gone within 10 s of SIGTERM."""

_log = structlog.get_logger(__name__)


def on_signals(stopping: asyncio.Event | None = None) -> asyncio.Event:
    """The event, which SIGTERM and SIGINT set from now on, where this is the main thread."""
    stopping = stopping or asyncio.Event()
    if threading.current_thread() is threading.main_thread():
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
    return stopping


@contextlib.contextmanager
def deadline(seconds: float = STOP_S) -> Iterator[None]:
    """End the process if the block takes longer: what hangs (a store, a lock) may for minutes.

    Nothing is lost by it: what is not in files is on the log, what is not there in the spool.
    """

    def end() -> None:
        _log.error("stopping took too long, ending at once", seconds=seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
