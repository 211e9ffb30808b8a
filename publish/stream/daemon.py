"""The stream beside the API: its own connection to the log, its own port."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import structlog

from ingest.tasks import cancelled
from publish.keys import KeyFile
from publish.log import open_log
from publish.settings import Settings
from publish.stream.feed import Feed
from publish.stream.hub import Hub
from publish.stream.server import PATH, StreamServer

_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def streaming(settings: Settings, keys: KeyFile, bound: socket.socket) -> AsyncIterator[None]:
    """Stream the log's bars on that socket while in the block."""
    hub = Hub()
    log = open_log(settings.log)
    feeding = asyncio.create_task(Feed(log, hub).run())
    server = StreamServer(hub, keys, settings.venues.enabled())
    host, port = bound.getsockname()[:2]
    try:
        async with server.listening(bound):
            _log.info("live stream is served", url=f"ws://{host}:{port}{PATH}")
            yield
    finally:
        await cancelled(feeding)
        await log.close()
