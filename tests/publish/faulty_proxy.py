"""A proxy in front of an S3 server that fails now and then, as S3 and the way there do.

    with FaultyProxy(endpoint, seed=1, share=0.2) as proxy:
        Store("s3://…", endpoint_url=proxy.url)
        proxy.injected  # Counter of the faults by kind

The Host header, which is signed, goes through unchanged.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

KINDS = (
    "error 500",
    "error 503",
    "slow down",
    "slow",
    "drop before",
    "drop after success",
    "timeout after success",
    "half an answer",
)
SLOW_S = 0.3
SILENT_S = 3.0
"""Longer than the client waits for an answer."""
_HOP = {"connection", "keep-alive", "transfer-encoding"}


class FaultyProxy:
    """Each request fails with probability `share`, in one of the `kinds`."""

    def __init__(
        self, endpoint: str, *, seed: int, share: float, kinds: Sequence[str] = KINDS
    ) -> None:
        self.injected: Counter[str] = Counter()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """Method, path and headers of each."""
        self._upstream = urlsplit(endpoint).netloc
        self._share, self._kinds = share, kinds
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            of = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FaultyProxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def start_failing(self, share: float = 1.0) -> None:
        self._share = share

    def stop_failing(self) -> None:
        self._share = 0.0

    def fault(self) -> str:
        """What goes wrong with the next request; "" if nothing does."""
        with self._lock:
            if self._chance.random() >= self._share:
                return ""
            kind = self._chance.choice(self._kinds)
            self.injected[kind] += 1
            return kind

    def forward(self, method: str, path: str, headers: Any, body: bytes) -> tuple[Any, bytes]:
        connection = HTTPConnection(self._upstream, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() not in (*_HOP, "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            response: HTTPResponse = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    of: FaultyProxy
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.of.requests.append((self.command, self.path, dict(self.headers)))
        fault = self.of.fault()
        if fault == "slow":
            time.sleep(SLOW_S)
        elif fault == "drop before":
            self.close_connection = True
            return
        elif fault in ("error 500", "error 503", "slow down"):
            self._refuse(fault)
            return
        response, answer = self.of.forward(self.command, self.path, self.headers, body)
        if fault == "drop after success":
            self.close_connection = True
            return
        if fault == "timeout after success":
            time.sleep(SILENT_S)
            self.close_connection = True
            return
        self._answer(response, answer, half=fault == "half an answer")

    def _refuse(self, fault: str) -> None:
        code, status = {
            "error 500": ("InternalError", 500),
            "error 503": ("ServiceUnavailable", 503),
            "slow down": ("SlowDown", 503),
        }[fault]
        text = f"<Error><Code>{code}</Code><Message>injected: {code}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _answer(self, response: HTTPResponse, answer: bytes, *, half: bool) -> None:
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in (*_HOP, "content-length"):
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else len(answer)
        if response.status != 204:
            self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer[: len(answer) // 2] if half else answer)
        self.close_connection = self.close_connection or half

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not news."""
