"""Frames cut anywhere give what the library gives, and close the connection when it does."""

import asyncio
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Close, Opcode
from websockets.frames import Frame as WireFrame
from websockets.protocol import OPEN
from websockets.uri import parse_uri
from websockets.utils import accept_key

from ingest.clock import ArrivalClock
from ingest.connection import MAX_MESSAGE, ArrivalConnection
from ingest.venues import Frame

URI = parse_uri("ws://127.0.0.1/")
RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass


def opened() -> tuple[ClientProtocol, bytes]:
    """A protocol that has sent its request, and the response that opens it."""
    protocol = ClientProtocol(URI, max_size=MAX_MESSAGE)
    request = protocol.connect()
    protocol.send_request(request)
    protocol.data_to_send()
    return protocol, RESPONSE % accept_key(request.headers["Sec-WebSocket-Key"]).encode()


def by_library(stream: bytes) -> tuple[list[bytes], bool]:
    """(complete messages, still open) as the library alone sees the stream."""
    protocol, response = opened()
    protocol.receive_data(response + stream)
    messages: list[bytes] = []
    parts: list[bytes] = []
    for event in protocol.events_received()[1:]:
        assert isinstance(event, WireFrame)
        if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            parts.append(bytes(event.data))
            if event.fin:
                messages.append(b"".join(parts))
                parts = []
    return messages, protocol.state is OPEN


def by_us(stream: bytes, cuts: list[int]) -> tuple[list[bytes], bool, bytes]:
    """The same from our connection, reading the stream in pieces; and what it wrote."""
    frames: list[Frame] = []
    protocol, response = opened()
    connection = ArrivalConnection(ArrivalClock(), frames.extend, protocol)
    wire = Wire()
    connection.connection_made(wire)
    whole = response + stream
    edges = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    for start, end in pairwise(edges):
        if start < end:
            connection.data_received(whole[start:end])
    return [payload for _, payload in frames], protocol.state is OPEN, wire.written


def wired(opcode: Opcode, data: bytes, fin: bool = True, mask: bool = False) -> bytes:
    return WireFrame(opcode, data, fin).serialize(mask=mask)


lengths = st.one_of(st.integers(0, 300), st.sampled_from([125, 126, 127, 65_535, 65_536, 70_000]))
message = st.builds(lambda n: wired(Opcode.TEXT, b"x" * n), lengths)
fragmented = st.builds(
    lambda n, pings: b"".join(
        [wired(Opcode.TEXT, b"f" * n, fin=False)]
        + [wired(Opcode.PING, b"p")] * pings
        + [wired(Opcode.CONT, b"g" * n, fin=False), wired(Opcode.CONT, b"h")]
    ),
    lengths,
    st.integers(0, 2),
)
other = st.sampled_from(
    [wired(Opcode.BINARY, b"b"), wired(Opcode.PING, b""), wired(Opcode.PONG, b"")]
)
broken = st.sampled_from(
    [
        wired(Opcode.TEXT, b"masked", mask=True),
        wired(Opcode.TEXT, b"y" * 300, mask=True),
        b"\x81\x7f" + (MAX_MESSAGE + 1).to_bytes(8, "big"),
        b"\xc1\x01x",
        b"\x83\x00",
        wired(Opcode.CONT, b"nothing to continue"),
        wired(Opcode.TEXT, b"a", fin=False) + wired(Opcode.TEXT, b"in between"),
        wired(Opcode.CLOSE, Close(1001, "away").serialize()),
    ]
)
stream = st.lists(st.one_of(message, message, message, fragmented, other), max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    stream,
    st.lists(st.integers(0, 2**20), max_size=8),
    st.one_of(st.none(), broken),
    st.integers(0, 30),
)
def test_any_frames_cut_anywhere(
    frames: list[bytes], cuts: list[int], end: bytes | None, missing: int
) -> None:
    sent = b"".join(frames)
    if end is not None:
        sent += end + wired(Opcode.TEXT, b"after the end")
    elif missing:
        sent = sent[:-missing]

    async def run() -> None:
        messages, still_open = by_library(sent)
        ours, ours_open, _ = by_us(sent, cuts)
        assert ours == messages
        assert ours_open == still_open

    asyncio.run(run())


async def test_pings_are_answered_in_a_stream_of_text() -> None:
    sent = (
        wired(Opcode.TEXT, b"1") + wired(Opcode.PING, b"are you there") + wired(Opcode.TEXT, b"2")
    )
    messages, still_open, written = by_us(sent, [])
    assert messages == [b"1", b"2"]
    assert still_open
    assert written[0] == 0x8A  # a pong
