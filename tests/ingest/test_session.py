"""The order of a session's records, whatever arrives when."""

from collections import defaultdict
from collections.abc import Callable

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ingest.batches import Universe
from ingest.clock import ArrivalClock
from ingest.instruments import BINANCE, HYPERLIQUID, Instrument, partition_of
from ingest.log import NewRecord
from ingest.records import QUOTES_TOPIC, TRADES_TOPIC, Coverage, Source
from ingest.session import PARSE_FRAMES, Session
from ingest.ticks import BACKLOG, LIVE
from ingest.venues import Notice, venue
from tests.ingest.collecting import (
    NATIVES,
    assert_sessions_keep_their_promises,
    instruments,
    quote,
    ticks_of,
    trade,
)

START = 1_792_000_000_000_000_000
MS = START // 1_000_000


class Wall:
    def __init__(self) -> None:
        self.ns = START

    def __call__(self) -> int:
        return self.ns


class Driven:
    """A session on a wall clock that the test moves, with every record it returned."""

    def __init__(
        self, partitions: int = 2, batch_rows: int = 4096, exchange: str = BINANCE
    ) -> None:
        self.wall = Wall()
        self.clock = ArrivalClock(self.wall)
        self.partitions = partitions
        self.notices: list[Notice] = []
        self.universe = Universe(instruments())
        self.session = Session(
            Source(exchange, exchange, "c1", "1"),
            venue(exchange),
            self.universe,
            partitions,
            self.clock,
            batch_rows,
        )
        self.records: list[NewRecord] = self.session.start()

    def take(self, due: list[NewRecord]) -> None:
        self.records += due

    def receive(self, *payloads: bytes) -> None:
        stamp = self.clock.now()
        frames = [(stamp, payload) for payload in payloads]
        self.take(self.session.receive(frames, self.notices.append))

    def kinds(self, topic: str, partition: int) -> list[str]:
        return [
            r.headers["type"] for r in self.records if (r.topic, r.partition) == (topic, partition)
        ]

    def tick_rows(self) -> list[int]:
        batches = [ticks_of(record) for record in self.records]
        return sorted(row for b in batches if b is not None for row in b.row.tolist())


actions = st.lists(
    st.one_of(
        st.tuples(st.just("frames"), st.lists(st.integers(0, 5), min_size=1, max_size=80)),
        st.tuples(st.just("advance"), st.integers(-2_000_000_000, 2_000_000_000)),
        st.tuples(st.sampled_from(["flush", "punctuate", "event", "subscribed"]), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(actions, st.integers(1, 4), st.sampled_from([1, 7, 4096]))
def test_no_record_after_a_punctuation_has_a_tick_before_it(
    script: list[tuple[str, object]], partitions: int, batch_rows: int
) -> None:
    driven = Driven(partitions, batch_rows)
    session = driven.session
    frames = 0
    for action, argument in script:
        if action == "frames":
            assert isinstance(argument, list)
            payloads = [(trade, quote)[k % 2](frames + 1, NATIVES[k // 2]) for k in argument]
            driven.receive(*payloads)
            frames += len(payloads)
        elif action == "advance":  # also backwards: the arrival clock holds
            assert isinstance(argument, int)
            driven.wall.ns += argument
        elif action == "subscribed":
            session.subscribed(NATIVES, driven.clock.now())
        else:
            act: dict[str, Callable[[], list[NewRecord]]] = {
                "flush": session.flush,
                "punctuate": session.punctuate,
                "event": lambda: session.event("disconnected"),
            }
            driven.take(act[action]())
    driven.take(session.end())

    by_partition: dict[tuple[str, int], list[NewRecord]] = defaultdict(list)
    for record in driven.records:
        by_partition[record.topic, record.partition].append(record)
    assert len(by_partition) == 2 * partitions
    for records in by_partition.values():
        assert_sessions_keep_their_promises(records)
    assert driven.tick_rows() == list(range(frames))


def test_frames_are_parsed_as_soon_as_enough_are_there_and_appended_when_a_batch_is_full() -> None:
    driven = Driven(partitions=1, batch_rows=PARSE_FRAMES + 1)
    driven.receive(*[trade(i) for i in range(1, PARSE_FRAMES + 1)])
    assert driven.kinds(TRADES_TOPIC, 0) == ["session-start"]
    driven.receive(*[trade(i) for i in range(1, PARSE_FRAMES + 1)])
    assert driven.kinds(TRADES_TOPIC, 0) == ["session-start", "trades"]


def test_ticks_are_in_their_instruments_partition() -> None:
    driven = Driven(partitions=4)
    driven.receive(*[make(1, n) for n in NATIVES for make in (trade, quote)])
    driven.take(driven.session.flush())
    for record in driven.records:
        ticks = ticks_of(record)
        if ticks is not None:
            for symbol in ticks.symbols:
                assert partition_of(BINANCE, symbol, 4) == record.partition


def test_coverage_comes_once_with_the_first_live_tick_after_subscribing_and_before_it() -> None:
    driven = Driven(partitions=4)
    driven.receive(trade(1, ms=MS + 900))  # before all subscriptions stood
    driven.take(driven.session.flush())
    driven.wall.ns += 1_000_000_000
    local_from = driven.clock.now()
    driven.session.subscribed(["BTCUSDT", "ETHUSDT"], local_from)
    driven.take(driven.session.flush())
    assert not [r for r in driven.records if r.headers["type"] == "coverage"]
    driven.wall.ns += 1_000_000
    driven.receive(trade(2, ms=MS + 5_000), trade(3, "ETHUSDT", ms=MS + 5_001))
    driven.take(driven.session.flush())
    driven.receive(trade(4))
    driven.take(driven.session.flush())

    coverage = [r for r in driven.records if r.headers["type"] == "coverage"]
    seen = {(r.topic, r.partition): Coverage.decode(r.value) for r in coverage}
    assert len(seen) == len(coverage)
    expected = {i.symbol: partition_of(BINANCE, i.symbol, 4) for i in instruments()[:2]}
    for topic in (TRADES_TOPIC, QUOTES_TOPIC):
        mine = {s: p for (t, p), c in seen.items() if t == topic for s in c.symbols}
        assert mine == expected
    assert {c.local_from for c in seen.values()} == {local_from}
    assert {c.exchange_from for c in seen.values()} == {(MS + 5_000) * 1_000_000}
    first = partition_of(BINANCE, instruments()[0].symbol, 4)
    assert driven.kinds(TRADES_TOPIC, first)[:4] == [
        "session-start",
        "trades",
        "coverage",
        "trades",
    ]


def test_coverage_of_an_exchange_clock_behind_ours_starts_at_arrival() -> None:
    driven = Driven(partitions=1)
    driven.session.subscribed(NATIVES, driven.clock.now())
    driven.receive(quote(1, ms=MS - 40))
    driven.take(driven.session.flush())
    (record,) = (r for r in driven.records if r.topic == QUOTES_TOPIC and r.value[:1] == b"{")
    assert Coverage.decode(record.value).exchange_from == START


def test_backlog_does_not_start_coverage() -> None:
    fill = {"coin": "BTC", "side": "B", "px": "64411.0", "sz": "0.3", "hash": "0x", "users": []}
    frames = [
        orjson.dumps(
            {"channel": "trades", "data": [fill | {"time": MS + offset, "tid": 70_000 + offset}]}
        )
        for offset in (-60_000, 5_000)
    ]
    clock = ArrivalClock(Wall())
    universe = Universe([Instrument(HYPERLIQUID, "BTC", "perpetual-BTC-USDC:USDC")])
    source = Source(HYPERLIQUID, HYPERLIQUID, "c1", "1")
    session = Session(source, venue(HYPERLIQUID), universe, 1, clock, 4096)
    session.subscribed(["BTC"], clock.now())
    due: list[NewRecord] = []
    for frame in frames:
        session.receive([(clock.now(), frame)], lambda notice: None)
        due += session.flush()
    kinds = [(r.headers["type"], r.topic) for r in due]
    assert kinds == [
        ("trades", TRADES_TOPIC),
        ("coverage", TRADES_TOPIC),
        ("coverage", QUOTES_TOPIC),
        ("trades", TRADES_TOPIC),
    ]
    origins = [batch.origin.tolist() for r in due if (batch := ticks_of(r)) is not None]
    assert origins == [[BACKLOG], [LIVE]]
    assert Coverage.decode(due[1].value).exchange_from == (MS + 5_000) * 1_000_000


def test_notices_go_to_the_connection_that_received_them() -> None:
    driven = Driven()
    mine: list[Notice] = []
    driven.session.receive([(START, b'{"result":null,"id":7}')], mine.append)
    driven.receive(b'{"error":{"code":2,"msg":"Invalid request"},"id":8}')
    driven.session.flush()
    assert [(n.kind, n.text) for n in mine] == [("ack", "7")]
    assert [n.kind for n in driven.notices] == ["error"]


def test_bad_frames_are_told_once_a_reason_and_lose_nothing() -> None:
    driven = Driven(partitions=1)
    with capture_logs() as told:
        for _ in range(3):
            driven.receive(b"not json", trade(1), b'{"e":"trade","s":"BTCUSDT"}')
            driven.receive(trade(2, "XUSDT"))
            driven.take(driven.session.flush())
    assert driven.tick_rows() == [0, 1, 2]
    assert sorted(entry["event"] for entry in told) == [
        "malformed frame",
        "malformed frame",
        "unknown symbol",
    ]


def test_a_stepped_clock_is_an_event_on_the_log() -> None:
    driven = Driven(partitions=2)
    driven.wall.ns -= 5_000_000_000
    driven.take(driven.session.punctuate())
    assert driven.kinds(TRADES_TOPIC, 0) == ["session-start", "event", "punctuation"]
    (event,) = (r for r in driven.records if r.headers["type"] == "event" and r.partition == 1)
    assert orjson.loads(event.value)["event"] == "clock-step"
