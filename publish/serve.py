"""`perpflow serve`: the HTTP API and the live stream, as a daemon or a part of `perpflow run`."""

import asyncio
import contextlib
import socket
import threading
import time
from calendar import monthrange
from collections.abc import AsyncIterator, Iterator
from datetime import date

import structlog
import uvicorn

from ingest import event_loop
from ingest.errors import UserError
from publish import health, metrics
from publish.api.access import Access, Limiter, Preview
from publish.api.app import PREFIX, Service, create_app
from publish.keys import KeyFile
from publish.listing import Listing
from publish.settings import Settings
from publish.signing import LocalSigner, S3Signer, Signer
from publish.stopping import deadline, on_signals
from publish.store import Store, open_store
from publish.stream.daemon import streaming

DEFAULT_PORT = 8080
_BACKLOG = 512
_GRACE_S = 2
"""For answers under way when a stop is asked for."""

_log = structlog.get_logger(__name__)


class ServeError(UserError):
    """The API's address can't be used."""


async def serve(settings: Settings, stopping: asyncio.Event | None = None) -> None:
    """Serve until SIGTERM or SIGINT, or until `stopping` is set. Raises `UserError`s."""
    stopping = on_signals(stopping)
    store = open_store(settings.publish)
    server = _Server(settings, store)
    async with health.served(settings.metrics, lambda: server.started):
        running = asyncio.create_task(server.answer())
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({stop, running}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        server.should_exit = True
        with deadline():
            await running


@contextlib.asynccontextmanager
async def beside(settings: Settings, store: Store) -> AsyncIterator[None]:
    """The API while in the block, if `api.port` is set, on a thread: its work delays no stamp."""
    if settings.api.port is None:
        yield
        return
    server = _Server(settings, store)

    def serving() -> None:
        event_loop.run(server.answer_beside(), uvloop=settings.runtime.uvloop)

    thread = threading.Thread(target=serving, name="API")
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join)


class _Server(uvicorn.Server):
    """The API on a socket that it has bound; its signals are the daemon's business."""

    def __init__(self, settings: Settings, store: Store) -> None:
        keys = KeyFile(settings.api.keys)
        first = not keys.exists()
        api = settings.api
        with contextlib.ExitStack() as sockets:
            self._socket = sockets.enter_context(_bound("port", api.host, api.port or DEFAULT_PORT))
            self._stream = None
            if api.stream_port is not None:
                bound = sockets.enter_context(_bound("stream_port", api.host, api.stream_port))
                self._stream = streaming(settings, keys, bound)
            if first:  # without a key there is nothing to try
                text = keys.add("made at the first start", "prime+raw")
                print(f"API key, shown this once: {text}", flush=True)
            app = create_app(_service(settings, store, keys))
            sockets.pop_all()  # theirs who serve on them
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,  # URLs are secrets
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        host, port = self._socket.getsockname()[:2]
        _log.info("API is served", url=f"http://{host}:{port}{PREFIX}", files=store.url)

    async def answer(self) -> None:
        async with self._stream or contextlib.nullcontext():
            await self.serve([self._socket])

    async def answer_beside(self) -> None:
        async with event_loop.lag_told(metrics.LOOP_LAG.labels("api")):
            await self.answer()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _service(settings: Settings, store: Store, keys: KeyFile) -> Service:
    keys.signing_secret()  # a file of keys that can't be read is told now
    template = settings.api.files_url
    signer: Signer
    if store.path("") is None:
        signer = S3Signer(store, template)
    else:
        signer = LocalSigner(template, keys.signing_secret, time.time)
    previews = [_preview(text) for text in settings.api.previews]
    return Service(store, Listing(store), signer, Access(keys, previews, Limiter(time.monotonic)))


def _preview(text: str) -> Preview:
    exchange, symbol, month = text.split()
    year, number = map(int, month.split("-"))
    last = monthrange(year, number)[1]
    return Preview(exchange, symbol, date(year, number, 1), date(year, number, last))


def _bound(setting: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ServeError(
            f"api.{setting}: can't listen on {host}:{port}: {error.strerror}"
        ) from error
