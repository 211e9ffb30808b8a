"""ingest/symbol_watch.py: each symbol's silence against its own rate."""

from time import perf_counter

import numpy as np

from ingest.symbol_watch import CEILING_S, FIRST_S, FLOOR_S, TRADES_WITHOUT_QUOTE, SymbolWatch
from ingest.ticks import BACKLOG, HEALED, LIVE, Quotes, Trades

NS = 1_000_000_000
START = 1_792_000_000 * NS
FAST, SLOW, NEVER = range(3)
SYMBOLS = ["FAST", "SLOW", "NEVER"]


def at(seconds: float) -> int:
    return START + round(seconds * NS)


def ticks(
    kind: "type[Trades] | type[Quotes]", codes: list[int], seconds: float, origin: int = LIVE
):  # type: ignore[no-untyped-def]
    n = len(codes)
    stamp = at(seconds)
    values = {"code": codes, "exchange_ts": [stamp] * n, "local_ts": [stamp] * n}
    values["origin"] = [origin] * n
    columns = [values.get(name, [1] * n) for name in kind.names()]
    return [kind.from_columns(SYMBOLS, columns)] if n else []


def started() -> SymbolWatch:
    watch = SymbolWatch()
    watch.start([FAST, SLOW, NEVER], START)
    return watch


def run(watch: SymbolWatch, seconds: int) -> None:
    """FAST trades twice a second, SLOW every 40 s, NEVER never; both are quoted all the time."""
    for second in range(seconds):
        trades = [FAST, FAST] + [SLOW] * (second % 40 == 0)
        watch.heard(ticks(Trades, trades, second), ticks(Quotes, [FAST, SLOW], second))


def test_each_symbol_has_a_deadline_from_its_own_rate() -> None:
    watch = started()
    run(watch, 400)
    # Never heard: the first deadline. FAST soon after its last; SLOW only after three pauses.
    assert watch.suspects(at(399.5)) == [NEVER]
    assert watch.suspects(at(400 + FLOOR_S + 10)) == [NEVER, FAST]
    assert SLOW not in watch.suspects(at(360 + 110))
    assert SLOW in watch.suspects(at(360 + CEILING_S + 1))
    assert started().suspects(at(FIRST_S - 1)) == []


def test_one_that_was_looked_into_waits_twice_as_long_until_it_is_heard() -> None:
    watch = started()
    now = 0.0
    waits = []
    for _ in range(6):
        since = now
        while NEVER not in watch.suspects(at(now)):
            now += 1.0
        waits.append(now - since)
        watch.give_up(NEVER, at(now))
    assert waits == [121, 241, 481, 961, 1801, 1801]
    assert not watch.alive(NEVER, "trades")
    watch.heard(ticks(Trades, [NEVER], now), [])
    assert watch.alive(NEVER, "trades")


def test_what_rest_or_a_backlog_brought_is_not_heard_but_known() -> None:
    watch = started()
    for origin in (HEALED, BACKLOG):
        watch.heard(ticks(Trades, [NEVER], 130.0, origin), [])
        assert NEVER in watch.suspects(at(FIRST_S + 1))
        assert watch.newest(NEVER) == at(130.0)
    assert watch.newest(FAST) == START


def test_a_subscription_starts_the_silence_anew() -> None:
    watch = started()
    run(watch, 100)
    assert FAST in watch.suspects(at(200))
    watch.start([FAST], at(200))
    assert FAST not in watch.suspects(at(200 + FLOOR_S))


def test_quotes_are_missing_only_where_trades_go_on_without() -> None:
    watch = started()
    run(watch, 200)
    for second in range(200, 200 + TRADES_WITHOUT_QUOTE):
        watch.heard(ticks(Trades, [FAST], second), [])
    late = at(200 + 2 * TRADES_WITHOUT_QUOTE + 60)
    assert watch.unquoted(late) == [FAST]  # SLOW is unquoted too, but doesn't trade
    watch.heard([], ticks(Quotes, [FAST], 300))
    assert watch.unquoted(late) == []


def test_a_listing_and_an_empty_flush() -> None:
    watch = SymbolWatch()
    watch.heard([], [])
    assert watch.suspects(START) == []
    watch.start([5], START)
    assert watch.suspects(at(FIRST_S + 1))[-1] == 5


def test_a_flush_costs_little_however_many_symbols() -> None:
    symbols = [str(i) for i in range(1_000)]
    n = 4_000
    rng = np.random.default_rng(1)
    columns = [np.ones(n, np.int64).tolist() for _ in Trades.names()]
    columns[0] = rng.integers(0, 1_000, n).tolist()
    columns[2] = [START] * n
    columns[Trades.names().index("origin")] = [LIVE] * n
    batch = Trades.from_columns(symbols, columns)
    watch = SymbolWatch()
    best = min(_timed(watch, batch) for _ in range(20))
    assert best < 2e-3  # some 0.15 ms, of 50 between two flushes


def _timed(watch: SymbolWatch, batch: Trades) -> float:
    began = perf_counter()
    watch.heard([batch], [])
    return perf_counter() - began
