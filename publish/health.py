"""/metrics, /healthz and /readyz of a daemon."""

import contextlib
import platform
from collections.abc import AsyncIterator, Callable, Iterable
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import disable_created_metrics, make_wsgi_app

from ingest import event_loop
from ingest.errors import UserError
from publish import metrics
from publish.settings import MetricsSettings
from publish.version import VERSION

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each counter, which Prometheus has no use for


class HealthError(UserError):
    """The address for /metrics can't be used."""


class _Server(ThreadingMixIn, WSGIServer):
    """A client that says nothing holds up no other."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    timeout = 10  # seconds for a client to say what it wants

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not news."""


@contextlib.asynccontextmanager
async def served(settings: MetricsSettings, ready: Callable[[], bool]) -> AsyncIterator[None]:
    """Serve while in the block, if a port is set. Raises `HealthError` if it is taken."""
    if settings.port is None:
        yield
        return
    try:
        server: WSGIServer = make_server(
            settings.host, settings.port, _app(ready), server_class=_Server, handler_class=_Quiet
        )
    except OSError as error:
        raise HealthError(
            f"metrics.port: can't listen on {settings.host}:{settings.port}: {error.strerror}"
        ) from error
    thread = Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    metrics.BUILD.labels(VERSION, platform.python_version(), event_loop.name()).set(1)
    metrics.READY.set_function(lambda: float(ready()))
    try:
        async with event_loop.lag_told(metrics.LOOP_LAG.labels("main")):
            yield
    finally:
        server.shutdown()
        server.server_close()


def _app(ready: Callable[[], bool]) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    page_of_metrics = make_wsgi_app()

    def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            page: Iterable[bytes] = page_of_metrics(environ, start)
            return page
        status, text = {
            "/healthz": ("200 OK", b"alive\n"),
            "/readyz": ("200 OK", b"ready\n") if ready() else ("503 Not Ready", b"not ready\n"),
        }.get(path, ("404 Not Found", b"/metrics, /healthz, /readyz\n"))
        length = ("Content-Length", str(len(text)))
        start(status, [("Content-Type", "text/plain; charset=utf-8"), length])
        return [text]

    return app
