"""One TCP connection to the simulator: a venue's websocket, or a REST request that is answered.

The websocket protocol is `websockets`' own, without its I/O shell: frames leave in large writes
made of prepared bytes, and a POST with a body can be served on the same port.
"""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from time import monotonic
from typing import Protocol, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from ingest.simulator.protocols import Session

_HEAD_LIMIT = 64 << 10
_WRITE_HIGH_WATER = 1 << 20
_NONE: Mapping[str, str] = {}


Answer = tuple[int, bytes] | tuple[int, bytes, Mapping[str, str]]
"""Status, body and perhaps further headers of a REST answer."""


class Host(Protocol):
    """What a connection needs of its server."""

    def open_session(self, target: str) -> tuple[str, Session] | None: ...
    def answer(self, method: str, target: str, body: bytes, agent: str) -> Answer: ...
    def opened(self, connection: "Connection") -> None: ...
    def received(self, connection: "Connection", text: bytes) -> None: ...
    def closed(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    exchange: str
    session: Session

    def __init__(self, host: Host) -> None:
        self._host = host
        self._head = b""
        self._websocket: ServerProtocol | None = None
        self._fragments: list[bytes] = []
        self._writable = asyncio.Event()
        self._writable.set()
        self.sent_at = self.pinged_at = monotonic()
        self.outbox: list[bytes] = []
        self.messages = 0
        """Messages sent: each may be the last thing that a connection that breaks took with it."""
        self._stalled = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A plain one; uvloop's classes aren't asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        if self._websocket is None:
            self._head += data
            self._read_head()
        else:
            self._feed(self._websocket, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        if self._websocket is not None:
            self._host.closed(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- for the server

    @property
    def is_open(self) -> bool:
        """Whether what is put into the outbox reaches the client."""
        return (
            not self._stalled
            and self._websocket is not None
            and self._websocket.state is OPEN
            and not self._transport.is_closing()
        )

    def flush(self) -> None:
        """Send what is in the outbox: messages made by `wire`."""
        if self.outbox:
            if self.is_open:
                self._transport.write(b"".join(self.outbox))
                self.messages += len(self.outbox)
                self.sent_at = monotonic()
            self.outbox.clear()

    async def drain(self) -> None:
        """Until the client has taken most of what was sent, or is gone."""
        await self._writable.wait()

    def ping(self) -> None:
        self.pinged_at = monotonic()
        if self._websocket is not None and self.is_open:
            self._websocket.send_ping(b"%d" % int(self.pinged_at * 1000))
            self._send(self._websocket)

    def close(self, code: int, reason: str) -> None:
        if self._websocket is not None and self.is_open:
            self._websocket.send_close(code, reason)
            self._send(self._websocket)

    def stall(self) -> None:
        """Neither read nor send any more but stay connected: a half-open socket."""
        self._stalled = True
        self._transport.pause_reading()

    def finish(self) -> None:
        """Close the TCP connection once everything is written."""
        self._transport.close()

    def abort(self) -> None:
        """Drop the TCP connection, without a close frame."""
        self._transport.abort()

    # -- HTTP

    def _read_head(self) -> None:
        head, separator, body = self._head.partition(b"\r\n\r\n")
        if not separator:
            if len(self._head) > _HEAD_LIMIT:
                self._transport.abort()
            return
        if b"\r\nupgrade: websocket" in head.lower():
            self._websocket = ServerProtocol(max_size=1 << 20)
            self._feed(self._websocket, self._head)
            return
        lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        length = fields.get("content-length", "0")
        if not length.isdigit() or len(lines[0].split(" ")) != 3:
            self._respond(400, b'{"msg":"bad request"}')
        elif len(body) >= int(length):
            method, target, _ = lines[0].split(" ")
            answer = self._host.answer(method, target, body, fields.get("user-agent", ""))
            self._respond(*answer)

    def _respond(self, status: int, body: bytes, headers: Mapping[str, str] = _NONE) -> None:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{more}\r\n"
        )
        self._transport.write(head.encode() + body)
        self._transport.close()

    # -- websocket

    def _feed(self, websocket: ServerProtocol, data: bytes) -> None:
        websocket.receive_data(data)
        for event in websocket.events_received():
            if isinstance(event, Request):
                self._shake_hands(websocket, event)
            elif isinstance(event, Frame) and event.opcode in (
                Opcode.TEXT,
                Opcode.BINARY,
                Opcode.CONT,
            ):
                self._message(event)
        self._send(websocket)

    def _shake_hands(self, websocket: ServerProtocol, request: Request) -> None:
        opened = self._host.open_session(request.path)
        if opened is None:
            websocket.send_response(
                websocket.reject(HTTPStatus.NOT_FOUND, f"nothing is served at {request.path}\n")
            )
            return
        websocket.send_response(websocket.accept(request))
        self._send(websocket)
        if websocket.state is OPEN:
            self.exchange, self.session = opened
            self._host.opened(self)

    def _message(self, frame: Frame) -> None:
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            text = b"".join(self._fragments)
            self._fragments.clear()
            self._host.received(self, text)

    def _send(self, websocket: ServerProtocol) -> None:
        for data in websocket.data_to_send():
            if data:
                self._transport.write(data)
                self.sent_at = monotonic()
            else:
                self._transport.close()


def wire(frame: bytes) -> bytes:
    """An unfragmented, unmasked text message: what a server puts on the socket for `frame`."""
    size = len(frame)
    if size < 126:
        return b"\x81%c" % size + frame
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + frame
    return b"\x81\x7f" + size.to_bytes(8, "big") + frame


GOING_AWAY = CloseCode.GOING_AWAY
INACTIVE = CloseCode.NORMAL_CLOSURE
