"""The order of a session's records, whatever arrives when."""

from collections import defaultdict
from collections.abc import Callable

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ingest.batches import Universe
from ingest.clock import ArrivalClock
from ingest.continuity import REORDER_NS
from ingest.gaps import Gap
from ingest.history import Print
from ingest.instruments import BINANCE, HYPERLIQUID, Instrument, partition_of
from ingest.log import NewRecord
from ingest.records import QUOTES_TOPIC, TRADES_TOPIC, Coverage, GapRecord, Source
from ingest.session import PARSE_FRAMES, Session
from ingest.ticks import BACKLOG, HEALED, LIVE, Trades
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
        self.found: list[Gap] = []
        self.covered: list[Coverage] = []
        self.universe = Universe(instruments())
        self.session = Session(
            Source(exchange, exchange, "c1", "1"),
            venue(exchange),
            self.universe,
            partitions,
            self.clock,
            batch_rows,
            found=self.found.append,
            covered=self.covered.append,
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


def test_what_is_covered_is_told_as_it_goes_to_the_log() -> None:
    driven = Driven(partitions=1)
    local_from = driven.clock.now()
    driven.session.subscribed(["BTCUSDT", "ETHUSDT"], local_from)
    driven.session.subscribed(["1000PEPEUSDT"], local_from, anew=True)
    assert driven.covered == []
    driven.receive(trade(1, ms=MS + 5))
    driven.take(driven.session.flush())
    on_log = [Coverage.decode(r.value) for r in driven.records
              if r.headers["type"] == "coverage" and r.topic == TRADES_TOPIC]  # fmt: skip
    told = [(sorted(c.symbols), c.exchange_from, c.anew) for c in driven.covered]
    assert told == [(sorted(c.symbols), c.exchange_from, c.anew) for c in on_log]
    btc, eth, pepe = (i.symbol for i in instruments())
    stamp = (MS + 5) * 1_000_000
    assert told == [(sorted([btc, eth]), stamp, False), ([pepe], stamp, True)]


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
    assert [(n.kind, n.number) for n in mine] == [("ack", "7")]
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


def aggregate(number: int, first: int, last: int) -> bytes:
    data = {"e": "aggTrade", "E": MS, "a": number, "s": "BTCUSDT", "p": "60000.10", "q": "0.010"}
    data |= {"f": first, "l": last, "T": MS, "m": True}
    return orjson.dumps({"stream": "btcusdt@aggTrade", "data": data})


def gaps(driven: Driven) -> list[GapRecord]:
    return [GapRecord.decode(r.value) for r in driven.records if r.headers["type"] == "gap"]


def ids(driven: Driven, origin: int) -> list[int]:
    batches = (ticks_of(record) for record in driven.records)
    trades = [batch for batch in batches if isinstance(batch, Trades)]
    return [i for batch in trades for i in batch.id[batch.origin == origin].tolist()]


def test_a_gap_is_recorded_in_the_symbols_partition_and_told_and_then_closed() -> None:
    driven = Driven(partitions=4)
    driven.receive(trade(1), trade(5), trade(1, "ETHUSDT"), trade(2, "ETHUSDT"))
    driven.take(driven.session.flush())
    assert gaps(driven) == []  # rows may still come out of order
    driven.wall.ns += REORDER_NS
    driven.take(driven.session.flush())
    symbol = instruments()[0].symbol
    (record,) = (r for r in driven.records if r.headers["type"] == "gap")
    assert (record.topic, record.partition) == (TRADES_TOPIC, partition_of(BINANCE, symbol, 4))
    (opened,) = gaps(driven)
    assert (opened.symbol, opened.first_missing, opened.last_missing) == (symbol, 2, 4)
    assert (opened.state, opened.missing, opened.healed) == ("open", 3, 0)
    assert [(g.first_missing, g.last_missing) for g in driven.found] == [(2, 4)]

    prints = [Print(i, 1, MS, 1, 60_000.0, 0.5) for i in (2, 3)]
    driven.receive(trade(6))
    driven.wall.ns += 1_000
    driven.take(driven.session.healed(symbol, prints))
    driven.take(driven.session.gap(opened))
    driven.take(driven.session.end())
    assert ids(driven, HEALED) == [2, 3]
    assert len(gaps(driven)) == 2
    partition = [
        r for r in driven.records if (r.topic, r.partition) == (record.topic, record.partition)
    ]
    assert_sessions_keep_their_promises(partition)


def test_a_hole_that_is_open_at_the_end_is_recorded() -> None:
    driven = Driven(partitions=1)
    driven.receive(trade(1), trade(3))
    driven.take(driven.session.end())
    assert [(g.first_missing, g.state) for g in gaps(driven)] == [(2, "open")]
    assert driven.kinds(TRADES_TOPIC, 0)[-1] == "session-end"


def test_aggregates_follow_by_their_number_over_flushes() -> None:
    driven = Driven(partitions=1)
    driven.receive(aggregate(71, 1, 4), aggregate(72, 6, 8))
    driven.take(driven.session.flush())
    driven.receive(aggregate(73, 11, 11), quote(1), aggregate(76, 20, 21))
    driven.take(driven.session.end())
    assert [(g.first_missing, g.last_missing) for g in gaps(driven)] == [(12, 19)]
    assert driven.found[0].aggregates == (74, 75)
    assert (driven.session.singles, driven.session.quotes) == (0, 1)


def test_an_aggregate_that_straddles_single_trades_is_left_out() -> None:
    driven = Driven(partitions=1)
    driven.receive(trade(1), trade(2), aggregate(71, 2, 5), aggregate(72, 6, 6))
    driven.take(driven.session.end())
    assert ids(driven, LIVE) == [1, 2, 6]
    assert [(g.first_missing, g.last_missing, g.reason) for g in gaps(driven)] == [
        (3, 5, "straddle")
    ]


def test_after_a_disconnect_gaps_say_so() -> None:
    driven = Driven(partitions=1)
    driven.receive(trade(1))
    driven.take(driven.session.event("disconnected"))
    driven.receive(trade(9))
    driven.take(driven.session.end())
    assert [g.reason for g in gaps(driven)] == ["disconnect"]
