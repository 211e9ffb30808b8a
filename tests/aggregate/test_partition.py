"""Records to bars: sessions move time, restarts repeat nothing, live equals replay."""

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate.intervals import CLOCKS, NS
from aggregate.partition import PartitionAggregator
from aggregate.shard import Rules, ShardAggregator
from ingest import records
from ingest.log import Record
from tests.aggregate import strategies
from tests.aggregate.helpers import (
    TopicWriter,
    batch,
    bits,
    collect,
    collect_records,
    no_owner,
)
from tests.aggregate.test_shard import tick

EVICTION_NS = 30 * NS
START = (strategies.BASE - 10) * NS
SYMBOL = strategies.SYMBOLS[0]


def session_log(trades, quotes, every_ns, until=START, tail_s=40, **writer):
    """Both topics of one collector's session that saw these ticks, punctuated every so often.

    It ends `tail_s` after its last tick, or after `until` (ns) if that is later.
    """
    w = TopicWriter(**writer)
    w.control(records.SESSION_START, START)
    w.cover(strategies.SYMBOLS, START, START)
    events = sorted(
        [("trades", t) for t in trades] + [("quotes", q) for q in quotes],
        key=lambda e: e[1]["local_ts"],
    )
    promise, pending = START, {"trades": [], "quotes": []}
    for kind, event in events:
        if event["local_ts"] >= promise + every_ns:
            flush(w, pending)
            promise = event["local_ts"]
            w.control(records.PUNCTUATION, promise)
        pending[kind].append(event)
    flush(w, pending)
    last = max([until, *(e["local_ts"] for _, e in events)])
    w.control(records.PUNCTUATION, last + tail_s * NS)
    w.control(records.SESSION_END, last + tail_s * NS)
    return w.log


def flush(writer, pending):
    for kind, ticks in pending.items():
        if ticks:
            writer.ticks(kind, ticks)
            ticks.clear()


class Run:
    """An aggregator over in-memory topics, with commits that a restart comes back to."""

    def __init__(self, topics, rules):
        self.topics, self.rules = topics, rules
        self.state, self.offsets, self.out = {}, {}, []
        self.restart()

    def restart(self):
        owner = no_owner(0, self.state, self.offsets)
        self.partition = PartitionAggregator(owner, self.rules, EVICTION_NS)

    def read(self, topic, n):
        at = self.partition.positions[topic]
        for record in self.topics[topic][at : at + n]:
            self.partition.feed(record)

    def commit(self):
        out = self.partition.advance()
        for key, value in self.partition.changes().items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        self.offsets = dict(self.partition.offsets())
        self.out += out
        for record in out:
            if record.topic in self.topics:
                log = self.topics[record.topic]
                log.append(Record(record.topic, 0, len(log), 0, dict(record.headers), record.value))

    def finish(self):
        for topic in self.topics:
            self.read(topic, 10**9)
        self.commit()
        return collect_records(self.out)


@settings(max_examples=60, deadline=None)
@given(
    strategies.trades(max_size=25),
    strategies.quotes(max_size=25),
    st.sampled_from([NS // 4, 3 * NS, 60 * NS]),
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=12
    ),
    st.sampled_from(["binance-futures", "hyperliquid-perps"]),
)
def test_restarts_anywhere_give_the_same_bits(trades, quotes, every, steps, exchange):
    again = [{**t, "local_ts": t["local_ts"] + 20 * NS, "row": t["row"] + 100} for t in trades[::2]]
    topics = session_log(trades + again, quotes, every, exchange=exchange)
    rules = Rules()
    want = bits(Run({t: list(r) for t, r in topics.items()}, rules).finish())
    run = Run({t: list(r) for t, r in topics.items()}, rules)
    for commit, n_trades, n_quotes, restart in steps:
        run.read(records.TRADES_TOPIC, n_trades)
        run.read(records.QUOTES_TOPIC, n_quotes)
        if commit:
            run.commit()
        if restart:
            run.restart()
    assert bits(run.finish()) == want


@settings(max_examples=40, deadline=None)
@given(
    strategies.trades(max_size=25),
    strategies.quotes(max_size=25),
    st.integers(1, 3),
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 6), st.booleans()),
        max_size=12,
    ),
)
def test_any_number_of_partitions_and_owners_gives_the_same_bits(trades, quotes, count, steps):
    """Each partition has an owner of its own, which is killed and followed by another."""
    want = bits(Run(session_log(trades, quotes, NS // 4), Rules()).finish())
    runs = []
    for partition in range(count):
        own = strategies.SYMBOLS[partition::count]
        mine = ([t for t in ticks if t["symbol"] in own] for ticks in (trades, quotes))
        # What ends the session is the market's last stamp, not the partition's.
        last = max([e["local_ts"] for e in trades + quotes], default=START)
        runs.append(Run(session_log(*mine, NS // 4, until=last), Rules()))
    for which, n_trades, n_quotes, commit in steps:
        run = runs[which % count]
        run.read(records.TRADES_TOPIC, n_trades)
        run.read(records.QUOTES_TOPIC, n_quotes)
        if commit:
            run.commit()
        run.restart()
    got = [bits(run.finish()) for run in runs]
    assert sum(map(len, got)) == len(want)
    assert {key: rows for bars in got for key, rows in bars.items()} == want


@settings(max_examples=60, deadline=None)
@given(strategies.trades(max_size=25), strategies.quotes(max_size=25))
def test_live_bars_are_replay_bars(trades, quotes):
    """What live publishes equals a replay with the same lateness, for windows that closed."""
    live = Run(session_log(trades, quotes, NS // 4), Rules())
    got = live.finish()
    shard = ShardAggregator("binance-futures", Rules())
    shard.cover(strategies.SYMBOLS, START, START)
    for kind, ticks in (("trades", trades), ("quotes", quotes)):
        if ticks:
            shard.add(batch(kind, ticks), "c1")
    bars = live.partition._shards["binance-futures"].bars
    out = [bar for clock in CLOCKS for bar in shard.seal(clock, max(bars.sealed[clock], 1))]
    assert bits(collect(out)) == bits(got)


def test_bars_wait_for_the_slowest_live_session_of_their_shard():
    topics = {t: [] for t in records.TICK_TOPICS}
    a = TopicWriter(collector="a", log=topics)
    b = TopicWriter(collector="b", log=topics)
    for writer in (a, b):
        writer.control(records.SESSION_START, 90 * NS)
        writer.cover([SYMBOL], 90 * NS, 90 * NS)
    a.ticks("trades", [tick(100.1, 100.2, id=1)])
    a.control(records.PUNCTUATION, 110 * NS)
    run = Run(topics, Rules())
    assert run.finish() == {}
    b.ticks("trades", [tick(100.15, 100.3, id=2)])
    b.control(records.PUNCTUATION, 109 * NS)
    rows = run.finish()["flow", SYMBOL, "1s", "true"]
    assert rows[100]["taker_buy_count"] == 2


def test_a_session_far_behind_is_evicted_by_a_record_and_its_late_data_counted():
    topics = {t: [] for t in records.TICK_TOPICS}
    a = TopicWriter(collector="a", log=topics)
    b = TopicWriter(collector="b", log=topics)
    for writer in (a, b):
        writer.control(records.SESSION_START, 90 * NS)
        writer.cover([SYMBOL], 90 * NS, 90 * NS)
    a.ticks("trades", [tick(100.1, 100.2, id=1)])
    a.control(records.PUNCTUATION, 121 * NS)
    run = Run(topics, Rules())
    run.finish()  # evicts b in both topics
    kinds = [r.headers["type"] for t in topics.values() for r in t]
    assert kinds.count(records.EVICTION) == 2
    rows = run.finish()["flow", SYMBOL, "1s", "true"]
    assert rows[100]["taker_buy_count"] == 1
    b.ticks("trades", [tick(100.15, 100.3, id=2)])
    b.control(records.PUNCTUATION, 120 * NS)
    run.finish()
    assert run.partition.dropped["true", "trades", "source_lagging"] == 1
    # Replay is told which: on the exchange clock its second was still open.
    [told] = [r for r in topics[records.TRADES_TOPIC] if r.headers["type"] == records.LAGGING]
    assert records.Source.of(told.headers).collector == "b"
    late = records.Lagging.decode(told.value)
    stamp = round(100.3 * NS)
    assert (late.symbols, late.local_from, late.local_to) == ([SYMBOL], [stamp], [stamp])
    assert (late.row_from, late.row_to) == ([0], [0])
    assert (late.sealed_exchange, late.sealed_true) == (115, 120)


def test_a_killed_collectors_next_session_replaces_the_dead_one():
    topics = {t: [] for t in records.TICK_TOPICS}
    old = TopicWriter(collector="a", session="1", log=topics)
    old.control(records.SESSION_START, 90 * NS)
    old.cover([SYMBOL], 90 * NS, 90 * NS)
    old.ticks("trades", [tick(100.1, 100.2, id=1)])
    new = TopicWriter(collector="a", session="2", log=topics)
    new.control(records.SESSION_START, 103 * NS)
    new.cover([SYMBOL], 103 * NS, 103 * NS)
    # The venue pushes the last trade again, and a new one.
    new.ticks("trades", [tick(100.1, 103.5, id=1, row=0), tick(103.4, 103.6, id=2, row=1)])
    new.control(records.PUNCTUATION, 120 * NS)
    bars = Run(topics, Rules()).finish()
    assert {s: r["taker_buy_count"] for s, r in bars["flow", SYMBOL, "1s", "true"].items()} == {
        100: 1,
        103: 1,
    }
    # The gap is inside the 15 s window: it is published all the same.
    assert bars["flow", SYMBOL, "15s", "true"][90]["taker_buy_count"] == 2


def test_a_restart_with_the_clock_set_back_goes_on():
    topics = {t: [] for t in records.TICK_TOPICS}
    old = TopicWriter(collector="a", session="200", log=topics)
    old.control(records.SESSION_START, 200 * NS)
    old.cover([SYMBOL], 200 * NS, 200 * NS)
    old.control(records.PUNCTUATION, 205 * NS)
    new = TopicWriter(collector="a", session="180", log=topics)
    new.control(records.SESSION_START, 180 * NS)
    new.ticks("trades", [tick(190, 190, id=1), tick(206, 206, id=2, row=1)])
    new.control(records.PUNCTUATION, 220 * NS)
    run = Run(topics, Rules())
    bars = run.finish()
    assert list(bars["flow", SYMBOL, "1s", "true"]) == [206]


def test_two_venues_with_one_collector_id_and_session_stamp_are_apart():
    topics = {t: [] for t in records.TICK_TOPICS}
    for exchange in ("binance-futures", "okx-perps"):
        w = TopicWriter(exchange=exchange, log=topics)
        w.control(records.SESSION_START, 90 * NS)
        w.cover([SYMBOL], 90 * NS, 90 * NS)
        w.ticks("trades", [tick(100.1, 100.2, id=1)])
        w.control(records.PUNCTUATION, 120 * NS)
    run = Run(topics, Rules())
    for topic in topics:
        run.read(topic, 100)
    run.commit()
    flow = [r for r in run.out if r.headers.get("dataset") == "flow"]
    assert {r.headers["exchange"] for r in flow} == {"binance-futures", "okx-perps"}
    assert not run.partition.dropped


def test_a_repeated_record_counts_once():
    topics = {t: [] for t in records.TICK_TOPICS}
    w = TopicWriter(log=topics)
    w.control(records.SESSION_START, 90 * NS)
    w.cover([SYMBOL], 90 * NS, 90 * NS)
    w.ticks("trades", [tick(100.1, 100.2, id=1)])
    last = topics[records.TRADES_TOPIC][-1]
    copy = Record(last.topic, 0, last.offset + 1, 0, last.headers, last.value)
    topics[records.TRADES_TOPIC].append(copy)
    w.control(records.PUNCTUATION, 120 * NS)
    run = Run(topics, Rules())
    bars = run.finish()
    assert bars["flow", SYMBOL, "1s", "true"][100]["taker_buy_count"] == 1
    assert run.partition.dropped["both", "trades", "repeated_batch"] == 1


def test_a_day_that_ended_is_marked_closed_for_quiet_symbols_too():
    topics = {t: [] for t in records.TICK_TOPICS}
    w = TopicWriter(log=topics)
    w.control(records.SESSION_START, 86_300 * NS)
    w.cover(strategies.SYMBOLS, 86_300 * NS, 86_300 * NS)
    w.control(records.PUNCTUATION, 86_390 * NS)
    run = Run(topics, Rules())
    run.finish()
    w.control(records.PUNCTUATION, 86_402 * NS)
    run.finish()
    marks = [r for r in run.out if r.headers["type"] == records.CLOSED]
    assert [m.headers["clock"] for m in marks] == ["true"]
    w.control(records.PUNCTUATION, 86_407 * NS)
    run.finish()
    marks = [r for r in run.out if r.headers["type"] == records.CLOSED]
    assert [m.headers["clock"] for m in marks] == ["true", "exchange"]
    assert b"1970-01-01" in marks[0].value
    assert SYMBOL.encode() in marks[0].value
