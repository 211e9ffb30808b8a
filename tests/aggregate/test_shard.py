"""Bars against the plain reference, and the same bits however the ticks are cut."""

import math
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate.intervals import CLOCKS
from aggregate.shard import END, Rules, ShardAggregator
from tests.aggregate import reference, strategies
from tests.aggregate.helpers import batch, bits, collect

EXACT = {"open", "high", "low", "close", "bid_price", "bid_amount", "ask_price", "ask_amount"}
POSITIVE = {"ohlcv", "vtwap", "l1_price"}
"""Datasets whose sums have no terms that cancel."""


def aggregate(trades, quotes, sizes=(10**9,), lateness_s=None, order=None, reset="month"):
    lateness_ns = None if lateness_s is None else lateness_s * 10**9
    rules = Rules(lateness_ns=lateness_ns, partial=True, toxicity_reset=reset)
    shard = ShardAggregator("binance-futures", rules)
    for kind, ticks in (("trades", trades), ("quotes", quotes)):
        ticks = [ticks[i] for i in order(len(ticks))] if order else ticks
        at, turn = 0, 0
        while at < len(ticks):
            part = ticks[at : at + sizes[turn % len(sizes)]]
            shard.add(batch(kind, part), "c1", turn)
            at, turn = at + len(part), turn + 1
    out = [bar for clock in CLOCKS for bar in shard.seal(clock, END)]
    return collect(out), shard


def assert_close(got, want, scale, where):
    if want is None:
        assert isinstance(got, float), where
        assert math.isnan(got), where
    elif isinstance(want, int):
        assert got == want, where
    else:
        assert got == pytest.approx(want, rel=1e-9, abs=1e-12 * scale), where


def assert_equal_reference(got, want):
    assert {k for k, v in got.items() if v} == set(want)
    for key, rows in want.items():
        assert got[key].keys() == rows.keys(), key
        for start, row in rows.items():
            assert set(got[key][start]) == set(row)
            # Sums are compared to 1e-12 of Σ|x|, which the row's largest figure bounds.
            scale = max([abs(v) for v in row.values() if v is not None], default=0.0)
            scale = 0.0 if key[0] in POSITIVE else max(scale, 1.0)
            for name, value in row.items():
                where = (*key, start, name)
                if name in EXACT and value is not None:
                    assert got[key][start][name] == value, where
                elif name != "flow_toxicity_score":
                    assert_close(got[key][start][name], value, scale, where)


@settings(max_examples=60, deadline=None)
@given(strategies.trades(), strategies.quotes(), st.sampled_from([None, 5]))
def test_every_column_equals_the_reference(trades, quotes, lateness_s):
    got, _ = aggregate(trades, quotes, lateness_s=lateness_s)
    assert_equal_reference(got, reference.bars(trades, quotes, lateness_s=lateness_s))


@pytest.mark.parametrize("edge", strategies.EDGES)
@settings(max_examples=15, deadline=None)
@given(strategies.trades(max_size=20), strategies.quotes(max_size=20))
def test_every_column_equals_the_reference_at_the_calendars_edges(edge, trades, quotes):
    for ticks in (trades, quotes):
        for of in ticks:
            for stamp in ("exchange_ts", "local_ts"):
                of[stamp] += (strategies.EDGES[edge] - strategies.BASE) * 10**9
    got, _ = aggregate(trades, quotes)
    assert_equal_reference(got, reference.bars(trades, quotes))


@settings(max_examples=40, deadline=None)
@given(
    strategies.trades(),
    strategies.quotes(),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_same_bits_for_any_batching_and_arrival_order(trades, quotes, sizes, random):
    def shuffled(n):
        order = list(range(n))
        random.shuffle(order)
        return order

    whole, _ = aggregate(trades, quotes)
    cut, _ = aggregate(trades, quotes, sizes)
    mixed, _ = aggregate(trades, quotes, sizes, order=shuffled)
    assert bits(cut) == bits(whole)
    assert bits(mixed) == bits(whole)


@settings(max_examples=30, deadline=None)
@given(strategies.trades(), strategies.quotes(), st.data())
def test_copies_change_nothing_and_are_counted(trades, quotes, data):
    later = [
        {**t, "collector": "c2", "local_ts": t["local_ts"] + data.draw(st.integers(0, 3 * 10**9))}
        for t in trades + quotes
        if data.draw(st.booleans())
    ]
    again = {
        "trades": [t for t in later if "side" in t],
        "quotes": [t for t in later if "side" not in t],
    }
    want, _ = aggregate(trades, quotes)
    rules = Rules(lateness_ns=None, partial=True)
    shard = ShardAggregator("binance-futures", rules)
    for kind, ticks in (("trades", trades), ("quotes", quotes)):
        for collector, own in (("c1", ticks), ("c2", again[kind])):
            if own:
                shard.add(batch(kind, own), collector)
    got = collect(bar for clock in CLOCKS for bar in shard.seal(clock, END))
    assert bits(got) == bits(want)
    real = [t for t in again["trades"] if not t["off_book"]]
    assert shard.dropped["exchange", "trades", "duplicate"] == len(
        [t for t in real if not reference.is_late(t, None)]
    )
    assert shard.dropped["true", "quotes", "duplicate"] == len(again["quotes"])


@settings(max_examples=30, deadline=None)
@given(strategies.trades(max_size=25), st.lists(st.integers(1, 100_000), max_size=6))
def test_sealing_in_steps_gives_the_same_bits(trades, steps):
    want, _ = aggregate(trades, [])
    shard = ShardAggregator("binance-futures", Rules(lateness_ns=None, partial=True))
    if trades:
        shard.add(batch("trades", trades), "c1")
    out = []
    for clock in CLOCKS:
        for step in sorted(steps):
            out += shard.seal(clock, strategies.BASE + step)
        out += shard.seal(clock, END)
    assert bits(collect(out)) == bits(want)


@settings(max_examples=30, deadline=None)
@given(strategies.trades(max_size=25), strategies.quotes(max_size=25), st.integers(1, 7))
def test_passes_of_any_size_give_the_same_bits(trades, quotes, size):
    want, _ = aggregate(trades, quotes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aggregate.shard.PASS_TICKS", size)
        patch.setattr("aggregate.shard.PASS_ROWS", 2 * size)
        got, _ = aggregate(trades, quotes, (5,))
    assert bits(got) == bits(want)


def tick(exchange_s, local_s, **more):
    price, qty = more.pop("price", 100.0), more.pop("qty", 1.0)
    return {
        "symbol": strategies.SYMBOLS[0],
        "exchange_ts": round(exchange_s * 10**9),
        "local_ts": round(local_s * 10**9),
        "id": 1,
        "count": 1,
        "side": 1,
        "price": price,
        "qty": qty,
        "notional": price * qty,
        "origin": 0,
        "off_book": 0,
        "row": 0,
        **more,
    }


def quote(exchange_s, sequence=0, bid_qty=1.0, **more):
    stamp = round(exchange_s * 10**9)
    sides = {"bid_price": 99.0, "bid_qty": bid_qty, "ask_price": 101.0, "ask_qty": 1.0}
    quoted = {"symbol": strategies.SYMBOLS[0], "exchange_ts": stamp, "local_ts": stamp + 10**6}
    return {**quoted, "sequence": sequence, **sides, "origin": 0, "row": 0, **more}


def test_quotes_without_a_number_are_all_there_and_their_copies_are_not():
    """OKX numbers its bbo-tbt frames since 2023 only (tardis fixtures of 2022 have no seqId)."""
    quotes = [quote(100 + i / 10, bid_qty=1.0 + i) for i in range(5)]
    copies = [{**q, "local_ts": q["local_ts"] + 10**9} for q in quotes[:2]]
    numbered = [quote(103 + i / 10, sequence=7 + i) for i in range(3)]
    got, shard = aggregate([], quotes + copies + numbered)
    bars = got["l1_imbalance", strategies.SYMBOLS[0], "1s", "exchange"]
    assert bars[100]["imbalance_avg"] == pytest.approx(2.0)
    assert bars[103]["imbalance_avg"] == 0.0
    assert shard.dropped["exchange", "quotes", "duplicate"] == 2
    assert shard.dropped["true", "quotes", "duplicate"] == 2


def test_what_is_not_a_trade_is_counted_and_in_no_bar():
    trades = [
        tick(100.1, 100.2, id=1),
        tick(100.2, 100.3, id=2, price=0.0),
        tick(100.3, 100.4, id=3, price=-1.0),
        tick(100.4, 100.5, id=4, qty=0.0),
        tick(100.5, 100.6, id=5, off_book=1, price=50.0),
    ]
    got, shard = aggregate(trades, [])
    for clock in CLOCKS:
        bar = got["ohlcv", strategies.SYMBOLS[0], "1s", clock][100]
        assert bar == dict.fromkeys(("open", "high", "low", "close"), 100.0) | {
            "volume": 1.0,
            "volume_notional": 100.0,
        }
    assert shard.dropped["both", "trades", "not_a_trade"] == 4


def test_the_smallest_beside_the_largest_values_equal_the_reference_and_nothing_is_infinite():
    extremes = [1e-12, 1e15, 1e15, 1.0, 1e-12]
    more = {"collector": "c1", "identity": None}
    trades, quotes = [], []
    for i, value in enumerate(extremes, start=1):
        at = 100 + i / 10
        of = {**more, "identity": i, "sequence": i}
        trades.append(tick(at, 101, id=i, price=value, qty=value, row=i) | of)
        sides = {"bid_price": 1e-12, "ask_price": value, "ask_qty": value}
        quotes.append(quote(at, bid_qty=1e15, **sides, row=i) | of)
    got, _ = aggregate(trades, quotes)
    assert_equal_reference(got, reference.bars(trades, quotes))
    values = [v for rows in got.values() for row in rows.values() for v in row.values()]
    assert not any(map(math.isinf, values))


def test_late_and_future_ticks_are_counted_and_left_out_of_exchange_bars_only():
    ticks = [
        tick(100.5, 105.999, id=1),
        tick(100.6, 106.0, id=2),  # one lateness after its second's end
        tick(200.0, 139.0, id=3),  # 61 s ahead of its arrival
    ]
    got, shard = aggregate(ticks, [], lateness_s=5)
    symbol = strategies.SYMBOLS[0]
    assert list(got["ohlcv", symbol, "1s", "exchange"]) == [100]
    assert list(got["ohlcv", symbol, "1s", "true"]) == [105, 106, 139]
    assert shard.dropped["exchange", "trades", "late"] == 1
    assert shard.dropped["exchange", "trades", "future"] == 1


def test_windows_the_data_does_not_cover_are_withheld_and_counted():
    symbol = strategies.SYMBOLS[0]
    shard = ShardAggregator("binance-futures", Rules(lateness_ns=None))
    shard.cover([symbol], round(100.2e9), round(101.5e9))
    for clock, end in (("true", 119.9e9), ("exchange", 119.0e9)):
        shard.leave_out(clock, "trades", round(end), 1 << 62)
        shard.leave_out(clock, "trades", round(105.5e9), round(106.5e9))
        shard.leave_out(clock, "quotes", 0, 1 << 62)
    ticks = [tick(s + 0.6, s + 0.7, id=s) for s in range(100, 121)]
    shard.add(batch("trades", ticks), "c1")
    got = collect(bar for clock in CLOCKS for bar in shard.seal(clock, END))
    assert list(got["ohlcv", symbol, "1s", "true"]) == [*range(101, 105), *range(107, 119)]
    assert list(got["ohlcv", symbol, "1s", "exchange"]) == [*range(102, 105), *range(107, 119)]
    assert ("ohlcv", symbol, "15s", "true") not in got  # 105..120 ends after the data
    assert shard.dropped["true", "trades", "withheld"] > 0
    early = aggregate([tick(0.0, 0.5, id=1)], [])[0]
    assert list(early["ohlcv", symbol, "1d", "exchange"]) == [0]  # 1970


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_what_is_listed_again_is_covered_anew_whatever_the_order(order):
    symbol = strategies.SYMBOLS[0]
    shard = ShardAggregator("binance-futures", Rules(lateness_ns=None))
    coverages = [
        (round(100.2e9), round(100.4e9), False),  # two collectors, then one of them again
        (round(101.5e9), round(101.6e9), False),
        (round(130.2e9), round(130.4e9), True),
        (round(131.2e9), round(131.4e9), False),
    ]
    for at in order:
        local_from, exchange_from, anew = coverages[at]
        shard.cover([symbol], local_from, exchange_from, anew=anew)
    traded = [*range(100, 110), *range(128, 150)]
    shard.add(batch("trades", [tick(s + 0.6, s + 0.7, id=s) for s in traded]), "c1")
    shard = ShardAggregator.restore({k: v for k, v in shard.changes().items() if v}, shard.rules)
    shard.add(batch("trades", [tick(s + 0.6, s + 0.7, id=s) for s in traded]), "c1")
    got = collect(bar for clock in CLOCKS for bar in shard.seal(clock, END))
    for clock in CLOCKS:
        seconds = [*range(101, 110), 128, 129, *range(131, 150)]
        assert list(got["ohlcv", symbol, "1s", clock]) == seconds
        assert list(got["ohlcv", symbol, "15s", clock]) == [105, 135]
        assert ("ohlcv", symbol, "1m", clock) not in got  # 120..180 is across


def test_instruments_that_were_never_covered_are_withheld():
    shard = ShardAggregator("binance-futures", Rules(lateness_ns=None))
    shard.add(batch("trades", [tick(100, 100)]), "c1")
    assert collect(shard.seal("true", END)) == {}


@pytest.mark.parametrize("reset", ["month", "day"])
def test_toxicity_score_restarts_with_its_period_and_survives_a_restart(reset):
    """Three days over a month edge; a snapshot is taken and restored after every day."""
    from random import Random

    random = Random(7)
    ticks = []
    for i in range(300):
        at = 1_709_164_800 + i * 864 + random.random()  # 2024-02-29 .. 2024-03-02
        price, qty = 100 + random.random(), random.random() * 20
        side = random.choice([1, -1])
        ticks.append(tick(at, at + 0.01, id=i + 1, price=price, qty=qty, side=side))
    reference_ticks = [
        {**t, "sequence": t["id"], "collector": "c1", "identity": t["id"]} for t in ticks
    ]
    want = reference.bars(reference_ticks, [], reset=reset)

    rules = Rules(lateness_ns=None, partial=True, toxicity_reset=reset)
    shard, state, out = ShardAggregator("binance-futures", rules), {}, []
    for day in range(4):
        low, high = 1_709_164_800 + day * 86400, 1_709_164_800 + (day + 1) * 86400
        own = [t for t in ticks if low <= t["exchange_ts"] / 1e9 < high]
        if own:
            shard.add(batch("trades", own), "c1")
        out += shard.seal("exchange", high if day < 3 else END)
        for key, value in shard.changes().items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        shard = ShardAggregator.restore(state, rules)
    got = collect(out)
    for key, rows in want.items():
        if key[0] != "flow" or key[3] != "exchange":
            continue
        assert got[key].keys() == rows.keys()
        for start, row in rows.items():
            value = got[key][start]["flow_toxicity_score"]
            assert_close(value, row["flow_toxicity_score"], 1.0, (key, start))
