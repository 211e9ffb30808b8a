"""Counts and times requests. Labels are the routes' templates, never what was in a URL."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from publish.metrics import API_REQUESTS, API_SECONDS


class Measured:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            API_REQUESTS.labels(route, str(status)).inc()
            API_SECONDS.labels(route).observe(time.perf_counter() - started)
