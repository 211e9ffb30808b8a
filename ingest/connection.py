"""One websocket to a venue, stamped at the socket.

`ArrivalConnection` is the `websockets` client connection with one change: it stamps the bytes when
they come off the socket, before any parsing, and hands complete messages on from there, so that no
stamp waits in a queue and no task switch is paid per message. `ingest/line.py` opens it.
"""

from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.protocol import CONNECTING, OPEN, Event

from ingest.clock import ArrivalClock
from ingest.venues import Frame

MAX_MESSAGE = 16 << 20
"""Bytes. The largest known message is some 177 kB; 1 MiB, the library's default, is too near."""
_WHOLE_TEXT = 0x81
"""First byte of an unfragmented text frame: FIN and opcode 1."""
_LONGEST_SHORT_HEADER = 4
"""Bytes of the header of a frame below 64 KiB, at most."""


class ArrivalConnection(ClientConnection):
    """A client connection that delivers each read's complete messages, stamped, as one list.

    A message in several fragments carries the stamp of the read that completed it. `recv` and
    iteration never return anything.

    Whole unfragmented text frames, nearly all there are, are taken from the bytes here: that saves
    2 µs of the CPU time that a frame costs. Everything else goes to the library, by whole frames,
    so that it is between two frames whenever one is taken here.
    """

    def __init__(
        self, clock: ArrivalClock, deliver: Callable[[list[Frame]], None], *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._clock = clock
        self._deliver = deliver
        self._stamp = 0
        self.heard = self.loop.time()
        self.received = 0
        """Bytes so far."""
        self._messages: list[Frame] = []
        self._fragments: list[bytes] = []
        self._held = bytearray()
        self._needed = 0

    def data_received(self, data: bytes) -> None:
        self._stamp = self._clock.now()
        self.heard = self.loop.time()
        self.received += len(data)
        while self.protocol.state is CONNECTING and data:
            # By lines, as the response ends with one: what follows it are frames.
            end = data.find(b"\n") + 1 or len(data)
            super().data_received(data[:end])
            data = data[end:]
        if self._held:
            self._held += data
            if len(self._held) < self._needed:
                return
            data = bytes(self._held)
            self._held.clear()
        if data:
            self._take(data)
        if self._messages:
            messages, self._messages = self._messages, []
            self._deliver(messages)

    def _take(self, data: bytes) -> None:
        """Deal with the whole frames of `data`, which starts with a frame; hold what is left."""
        at, size = 0, len(data)
        last = size - _LONGEST_SHORT_HEADER
        stamp, add = self._stamp, self._messages.append
        plain = self.protocol.state is OPEN and not self._fragments
        while at < size:
            if plain and at <= last and data[at] == _WHOLE_TEXT and (length := data[at + 1]) < 127:
                # Nearly every frame, so without a call.
                start = at + 2
                if length == 126:
                    start, length = at + 4, data[at + 2] << 8 | data[at + 3]
                end = start + length
                if end <= size:
                    add((stamp, data[start:end]))
                    at = end
                    continue
            if self.protocol.state is not OPEN:
                super().data_received(data[at:])
                return
            start, end = _payload(data, at)
            if end > size:
                self._held += data[at:]
                self._needed = end - at
                return
            if start and data[at] == _WHOLE_TEXT and not self._fragments:
                add((stamp, data[start:end]))
            else:
                super().data_received(data[at:end])
            plain = self.protocol.state is OPEN and not self._fragments
            at = end

    def process_event(self, event: Event) -> None:
        if self.response is None or not isinstance(event, WireFrame):
            super().process_event(event)
        elif event.opcode is Opcode.TEXT or event.opcode is Opcode.BINARY:
            if event.fin:
                self._messages.append((self._stamp, bytes(event.data)))
            else:
                self._fragments = [bytes(event.data)]
        elif event.opcode is Opcode.CONT:
            self._fragments.append(bytes(event.data))
            if event.fin:
                self._messages.append((self._stamp, b"".join(self._fragments)))
                self._fragments = []
        else:
            super().process_event(event)


def _payload(data: bytes, at: int) -> tuple[int, int]:
    """Start and end of the payload of the frame at `at` (RFC 6455 §5.2).

    An end behind the data: wait for that much. A start of 0: what the library will refuse (a
    server's frames are not masked, and none is larger than `MAX_MESSAGE`), to the end of the data.
    """
    size = len(data)
    start = at + 2
    if start > size:
        return start, start
    length = data[at + 1]
    if length < 126:
        return start, start + length
    if length > 127:
        return 0, size
    start += 2 if length == 126 else 8
    if start > size:
        return start, start
    length = int.from_bytes(data[at + 2 : start], "big")
    return (start, start + length) if length <= MAX_MESSAGE else (0, size)
