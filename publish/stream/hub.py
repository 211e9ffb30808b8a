"""Who gets which rows: each row's frame is made once, and written to every subscriber's socket.

A frame from a server to its clients isn't masked (RFC 6455, 5.1), so its bytes are the same for all
of them. Nothing is queued here: a socket whose unsent bytes exceed a bound is cut off.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import orjson
from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from publish.stream import metrics
from publish.stream.channels import Channel, together

MAX_UNSENT = 4 << 20
"""Bytes the kernel hasn't taken: a reader this far behind will not catch up."""
_SNAPSHOT_ROWS = 100


@dataclass(frozen=True, slots=True)
class Row:
    """A bar: `data` is its JSON object."""

    symbol: str
    data: bytes


@dataclass(eq=False, slots=True)
class Subscriber:
    """One connection and what it gets: by channel, its symbols (None: all)."""

    connection: ServerConnection
    channels: dict[str, frozenset[str] | None] = field(default_factory=dict)

    def write(self, frames: Iterable[bytes]) -> None:
        """Hand whole frames to the socket, unless it is closing; cut it off if it can't keep up."""
        if self.connection.state is not State.OPEN:
            return
        transport = self.connection.transport
        transport.writelines(frames)
        if transport.get_write_buffer_size() > MAX_UNSENT:
            metrics.DROPPED.labels("slow").inc()
            transport.abort()

    def say(self, **message: object) -> None:
        self.write([frame(orjson.dumps(message))])


class Hub:
    """Subscribers by channel, and the latest row of every symbol of every channel."""

    def __init__(self) -> None:
        self._all: defaultdict[str, set[Subscriber]] = defaultdict(set)
        self._some: defaultdict[str, defaultdict[str, set[Subscriber]]] = defaultdict(
            lambda: defaultdict(set)
        )
        self._latest: defaultdict[str, dict[str, bytes]] = defaultdict(dict)

    def publish(self, channel: str, rows: Sequence[Row], *, live: bool = True) -> None:
        """Send the rows to who subscribed; not `live`: only remember them for snapshots."""
        latest = self._latest[channel]
        for row in rows:
            latest[row.symbol] = row.data
        everyone, some = self._all.get(channel), self._some.get(channel)
        if not live or not (everyone or some):
            return
        name = orjson.dumps(channel)
        frames = [frame(b'{"channel":%b,"data":%b}' % (name, row.data)) for row in rows]
        sent = 0
        if everyone:
            block = [b"".join(frames)]
            for subscriber in everyone:
                subscriber.write(block)
            sent = len(frames) * len(everyone)
        if some:
            sent += self._send_to_some(some, rows, frames)
        metrics.ROWS.inc(sent)

    def _send_to_some(
        self,
        some: dict[str, set[Subscriber]],
        rows: Sequence[Row],
        frames: Sequence[bytes],
    ) -> int:
        chosen: defaultdict[Subscriber, list[bytes]] = defaultdict(list)
        for row, framed in zip(rows, frames, strict=True):
            for subscriber in some.get(row.symbol, ()):
                chosen[subscriber].append(framed)
        for subscriber, own in chosen.items():
            subscriber.write(own)
        return sum(map(len, chosen.values()))

    def subscribe(self, subscriber: Subscriber, channel: Channel) -> None:
        """Add a channel's symbols to what the subscriber gets of it."""
        symbols = together(subscriber.channels, channel)
        self.unsubscribe(subscriber, channel.name)
        subscriber.channels[channel.name] = symbols
        if symbols is None:
            self._all[channel.name].add(subscriber)
        else:
            for symbol in symbols:
                self._some[channel.name][symbol].add(subscriber)

    def unsubscribe(self, subscriber: Subscriber, name: str) -> bool:
        """Whether it had that channel."""
        if name not in subscriber.channels:
            return False
        symbols = subscriber.channels.pop(name)
        if symbols is None:
            _discard(self._all, name, subscriber)
            return True
        of_channel = self._some[name]
        for symbol in symbols:
            _discard(of_channel, symbol, subscriber)
        if not of_channel:
            del self._some[name]
        return True

    def leave(self, subscriber: Subscriber) -> None:
        for name in list(subscriber.channels):
            self.unsubscribe(subscriber, name)

    async def snapshot(self, subscriber: Subscriber, channel: Channel) -> None:
        """Send the latest row of each symbol of the channel, no faster than the client reads."""
        latest = self._latest.get(channel.name, {})
        wanted = sorted(latest if channel.symbols is None else channel.symbols & latest.keys())
        name = orjson.dumps(channel.name)
        for at in range(0, len(wanted), _SNAPSHOT_ROWS):
            subscriber.write(
                frame(b'{"channel":%b,"snapshot":true,"data":%b}' % (name, latest[symbol]))
                for symbol in wanted[at : at + _SNAPSHOT_ROWS]
            )
            await subscriber.connection.drain()


def _discard(sets: dict[str, set[Subscriber]], key: str, subscriber: Subscriber) -> None:
    sets[key].discard(subscriber)
    if not sets[key]:
        del sets[key]


def frame(text: bytes) -> bytes:
    """A whole text message as a server sends it."""
    return Frame(Opcode.TEXT, text).serialize(mask=False)
