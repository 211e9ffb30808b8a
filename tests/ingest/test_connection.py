"""A feed against real websocket servers on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice, pairwise

import orjson
import pytest
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode

from ingest import line as module
from ingest.clock import ArrivalClock
from ingest.feed import MAX_DELAY_S, Feed, back_off
from ingest.instruments import BINANCE
from ingest.line import Line, label_of
from ingest.venues import Frame, ParseReport, venue
from tests.ingest.collecting import (
    Handler,
    acknowledge,
    instruments,
    trade,
    until,
    venue_server,
)


class Watched:
    """A feed with what it delivered and how it changed."""

    def __init__(
        self,
        port: int,
        heartbeat: tuple[float, bytes] | None = None,
        confirm_s: float = module.CONFIRM_S,
    ) -> None:
        self.frames: list[Frame] = []
        self.reads: list[list[Frame]] = []
        self.changes: list[str] = []
        self.feed = Feed(
            BINANCE,
            f"ws://127.0.0.1:{port}",
            venue(BINANCE).endpoints(instruments())[0],
            heartbeat,
            ArrivalClock(),
            self._deliver,
            lambda feed, what, reason: self.changes.append(what),
            requests=venue(BINANCE).requests,
            confirm_s=confirm_s,
        )

    def _deliver(self, line: Line, frames: list[Frame]) -> None:
        self.reads.append(frames)
        self.frames += frames
        report = ParseReport()
        venue(BINANCE).parse(frames, {}, 0, report)
        for notice in report.notices:
            line.notice(notice)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.frames]


@asynccontextmanager
async def watching(handler: Handler, **options: object) -> AsyncIterator[Watched]:
    async with venue_server(handler) as port:
        watched = Watched(port, **options)  # type: ignore[arg-type]
        task = asyncio.create_task(watched.feed.run())
        try:
            yield watched
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_messages_of_any_size_and_in_any_number_of_fragments_arrive_whole() -> None:
    sizes = [0, 1, 125, 126, 65_535, 65_536, 300_000]
    sent = [b"%d:" % n + b"x" * n for n in sizes]

    async def handler(connection: ServerConnection) -> None:
        await acknowledge(connection)
        for message in sent:
            await connection.send(message, text=True)
        for message in sent:
            cuts = [message[i : i + 40_000] for i in range(0, len(message), 40_000)]

            async def parts(cuts: list[bytes] = cuts) -> AsyncIterator[bytes]:
                for cut in cuts:
                    yield cut
                    await connection.ping()  # control frames may come between fragments

            await connection.send(parts(), text=True)
        await connection.wait_closed()

    async with watching(handler) as watched:
        await until(lambda: len(watched.frames) > 2 * len(sent))
        assert watched.payloads[1:] == sent + sent
        stamps = [stamp for stamp, _ in watched.frames]
        assert stamps == sorted(stamps)


async def test_the_messages_of_one_read_share_its_stamp_and_come_at_once() -> None:
    async def handler(connection: ServerConnection) -> None:
        await acknowledge(connection)
        wire = [WireFrame(Opcode.TEXT, trade(i)).serialize(mask=False) for i in range(1, 51)]
        connection.transport.write(b"".join(wire))
        await connection.wait_closed()

    async with watching(handler) as watched:
        await until(lambda: len(watched.frames) == 51)
        for read in watched.reads:
            assert len({stamp for stamp, _ in read}) == 1
        assert len(watched.reads) < 10


async def test_a_message_is_stamped_when_its_last_byte_has_come() -> None:
    go_on = asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        await acknowledge(connection)
        wire = WireFrame(Opcode.TEXT, trade(1)).serialize(mask=False)
        connection.transport.write(wire[:20])
        await go_on.wait()
        connection.transport.write(wire[20:])
        await connection.wait_closed()

    async with watching(handler) as watched:
        await until(lambda: watched.feed.subscribed)
        before = watched.feed._clock.now()
        go_on.set()
        await until(lambda: len(watched.frames) == 2)
        assert watched.frames[1][0] >= before


@pytest.mark.parametrize("how", ["close", "abort", "protocol error"])
async def test_a_lost_connection_is_opened_and_subscribed_again(how: str) -> None:
    requests: list[bytes] = []

    async def handler(connection: ServerConnection) -> None:
        requests.append(await connection.recv(decode=False))
        await connection.send('{"result":null,"id":1}')
        await connection.send(trade(len(requests)), text=True)
        if len(requests) < 3:
            if how == "abort":
                connection.transport.abort()
            elif how == "protocol error":
                connection.transport.write(b"\xff\xff\xff\xff")
            else:
                return
        await connection.wait_closed()

    async with watching(handler) as watched:
        await until(lambda: trade(3) in watched.payloads)
        assert len(set(requests)) == 1
        assert orjson.loads(requests[0])["method"] == "SUBSCRIBE"
        await until(lambda: watched.feed.subscribed)
        # An answer may still be unread when the connection is lost.
        changes = [change for change in watched.changes if change != "subscribed"]
        assert changes == ["connected", "disconnected"] * 2 + ["connected"]


async def test_a_venue_that_is_down_is_tried_until_it_is_up() -> None:
    async def handler(connection: ServerConnection) -> None:
        await acknowledge(connection)
        await connection.wait_closed()

    async with venue_server(handler) as port:
        pass
    watched = Watched(port)
    with capture_logs() as told:
        task = asyncio.create_task(watched.feed.run())
        await until(lambda: any(e["event"].startswith("not connected") for e in told))
        async with venue_server(handler, port):
            await until(lambda: watched.feed.subscribed)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert watched.changes == ["connected", "subscribed"]
    assert f"127.0.0.1:{port}" in told[0]["reason"]


async def test_subscriptions_that_stay_unanswered_are_sent_again_on_a_new_connection() -> None:
    connections = 0

    async def handler(connection: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        if connections > 1:
            await acknowledge(connection)
        await connection.wait_closed()

    async with watching(handler, confirm_s=0.01) as watched:
        await until(lambda: watched.feed.subscribed)
        assert connections == 2


async def test_a_connection_that_went_silent_is_opened_again() -> None:
    connections = 0
    beats: list[object] = []

    async def handler(connection: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await acknowledge(connection)
        beats.append(await connection.recv())
        await connection.wait_closed()

    async with watching(handler, heartbeat=(0.4, b"ping")) as watched:
        await until(lambda: connections == 2)
        assert beats[0] == "ping"
        assert watched.changes[:3] == ["connected", "subscribed", "disconnected"]


async def test_protocol_pings_keep_a_quiet_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.2)

    async def handler(connection: ServerConnection) -> None:
        await acknowledge(connection)
        await connection.wait_closed()

    async with watching(handler) as watched:
        await until(lambda: watched.feed.subscribed)
        running = watched.feed._current
        assert running is not None
        connection = running.line.connection
        assert connection is not None
        start = asyncio.get_running_loop().time()
        # More than three heartbeats with no message: pongs are what is heard.
        await until(lambda: connection.loop.time() - start > 1.5)
        assert running.line.connection is connection


async def test_a_refused_subscription_is_told_and_known() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send('{"error":{"code":2,"msg":"Invalid request"},"id":1}')
        await connection.wait_closed()

    with capture_logs() as told:
        async with watching(handler) as watched:
            await until(lambda: "disconnected" in watched.changes)
    (refusal,) = (e for e in told if e["event"] == "subscription refused")
    assert refusal["text"] == "2 Invalid request"
    assert any(e.get("reason") == "every subscription refused" for e in told)


async def test_pausing_leaves_the_data_with_the_venue() -> None:
    sent = 0

    async def handler(connection: ServerConnection) -> None:
        nonlocal sent
        await acknowledge(connection)
        while True:
            await connection.send(b"x" * 100_000, text=True)
            sent += 1

    async with watching(handler) as watched:
        await until(lambda: len(watched.frames) > 1)
        watched.feed.pause()
        received = len(watched.frames)
        stalled = -1
        while stalled != sent:  # the venue's sends stop once the socket buffers are full
            stalled = sent
            await asyncio.sleep(0.2)
        assert len(watched.frames) == received
        watched.feed.resume()
        await until(lambda: len(watched.frames) > received)


def test_back_off_doubles_up_to_its_limit_with_jitter() -> None:
    limits = [0.25 * 2**n for n in range(7)] + [MAX_DELAY_S] * 5
    delays = list(islice(back_off(), len(limits)))
    assert all(limit / 2 <= d <= limit for d, limit in zip(delays, limits, strict=True))
    assert any(b != 2 * a for a, b in pairwise(delays))


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("can't connect to wss://x: Connection refused", "can't connect"),
        ("closed: received 1012 (service restart) x; then sent 1012", "closed 1012"),
        ("closed: sent 1011 (internal error); no close frame received", "closed 1006"),
        ("closed: no close frame received or sent", "closed 1006"),
        ("closed: received 4999 (private use) x; then sent 4999 (private use)", "closed"),
        ("silent for more than 60 s", "silent"),
        ("could not send for 10 s", "sending"),
        ("subscriptions not confirmed in 15 s", "unconfirmed"),
        ("every subscription refused", "refused"),
        ("renewed: age", "renewed"),
    ],
)  # fmt: skip
def test_the_reasons_of_a_metric_are_few(reason: str, label: str) -> None:
    assert label_of(reason) == label
