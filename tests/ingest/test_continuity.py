"""Sequence checks: what is a gap, what is not, and that batching changes neither."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.continuity import REORDER_NS, Continuity, IdContinuity, continuity
from ingest.fills import BACKLOG_FILLS, RECENT_FILLS
from ingest.gaps import DELISTED, DISCONNECT, FILLS, RESTART, SEQUENCE, STRADDLE, Gap, without
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.ticks import BACKLOG, HEALED, I64, LIVE, Trades

SYMBOLS = ["perpetual-BTC-USDT:USDT", "perpetual-ETH-USDT:USDT"]
NOW = 1_792_000_000_000_000_000
Print = tuple[int, int, int, int]  # code, first id, last id, aggregate


def batch(rows: Sequence[Print], origin: int = LIVE, at: int = NOW) -> tuple[Trades, I64]:
    n = len(rows)
    zeros = [0] * n
    columns = [
        [code for code, *_ in rows],
        [at + i for i in range(n)],
        [at] * n,
        [last for _, _, last, _ in rows],
        [last - first + 1 for _, first, last, _ in rows],
        [1] * n,
        [1.0] * n,
        [1.0] * n,
        [1.0] * n,
        [origin] * n,
        zeros,
        list(range(n)),
    ]
    return Trades.from_columns(SYMBOLS, columns), np.array([a for *_, a in rows], np.int64)


def single(code: int, *ids: int) -> list[Print]:
    return [(code, i, i, 0) for i in ids]


def gaps(check: Continuity, now: int | None = None) -> list[tuple[str, int | None, int | None]]:
    return [(g.symbol, g.first_missing, g.last_missing) for g in check.due(now)]


def checked(exchange: str, *batches: Sequence[Print]) -> Continuity:
    check = continuity(exchange)
    for rows in batches:
        check.check(*batch(rows))
    return check


def test_consecutive_ids_of_each_symbol_are_no_gap() -> None:
    check = checked(BINANCE, single(0, 5, 6) + single(1, 90), single(1, 91) + single(0, 7, 8))
    assert gaps(check) == []


def test_a_jump_is_a_gap_with_its_ends_and_the_last_good_stamp() -> None:
    check = checked(BINANCE, single(0, 5, 6))
    check.check(*batch(single(0, 10), at=NOW + 77))
    assert check.due() == [Gap(SYMBOLS[0], "ids", 7, 9, 3, SEQUENCE, NOW + 1, NOW + 77, NOW + 77)]
    assert check.due() == []


def test_what_a_delisted_symbol_traded_last_is_asked_for_once() -> None:
    check = checked(BINANCE, single(0, 5, 6) + single(1, 90))
    check.ended(SYMBOLS[0], NOW + 50)
    assert check.due(NOW + 49) == []
    check.check(*batch(single(0, 7), at=NOW + 10))  # what still came
    last = Gap(SYMBOLS[0], FILLS, 8, None, None, DELISTED, NOW + 10, NOW + 50, NOW + 50)
    assert check.due(NOW + 50) == [last]
    assert check.due() == []


def test_of_a_delisted_symbol_that_never_traded_only_a_doubt_is_a_gap() -> None:
    for exchange in (BINANCE, HYPERLIQUID):
        check = checked(exchange, single(0, 5))
        check.covered([SYMBOLS[1]], NOW - 7)
        check.ended(SYMBOLS[1], NOW + 50)
        assert check.due() == []
        check.covered([SYMBOLS[1]], NOW - 7)
        check.silent(SYMBOLS[1])
        check.ended(SYMBOLS[1], NOW + 50)
        (gap,) = check.due()
        assert (gap.symbol, gap.first_missing, gap.reason) == (SYMBOLS[1], None, DELISTED)
        assert gap.exchange_ts < gap.exchange_to == NOW + 50


def test_of_a_delisted_coin_the_last_fills_are_between_two_times() -> None:
    check = checked(HYPERLIQUID, single(0, 5, 6))
    check.ended(SYMBOLS[0], NOW + 50)
    unknown = Gap(SYMBOLS[0], FILLS, None, None, None, DELISTED, NOW + 1, NOW + 50, NOW + 50)
    assert check.due() == [unknown]


def test_okx_prints_count_their_ids() -> None:
    check = checked(OKX, [(0, 1, 4, 0), (0, 5, 9, 0), (0, 12, 12, 0)])
    assert gaps(check) == [(SYMBOLS[0], 10, 11)]


def test_aggregates_follow_by_their_number_whatever_ids_are_skipped() -> None:
    check = checked(BINANCE, [(0, 1, 4, 71), (0, 6, 9, 72)], [(0, 12, 12, 73)])
    assert gaps(check) == []
    check.check(*batch([(0, 20, 21, 76)]))
    (gap,) = check.due()
    assert (gap.first_missing, gap.last_missing, gap.aggregates) == (13, 19, (74, 75))


def test_the_first_aggregate_after_trades_must_follow_by_id() -> None:
    check = checked(BINANCE, single(0, 1, 2), [(0, 5, 6, 71)])
    assert gaps(check) == [(SYMBOLS[0], 3, 4)]


def test_an_aggregate_that_straddles_what_was_seen_is_left_out_and_its_rest_is_missing() -> None:
    check = checked(BINANCE, single(0, 1, 2, 3))
    keep = check.check(*batch([(0, 2, 6, 71), (0, 7, 8, 72)]))
    assert keep is not None
    assert keep.tolist() == [False, True]
    (gap,) = check.due()
    assert (gap.first_missing, gap.last_missing, gap.reason) == (4, 6, STRADDLE)


def test_what_comes_late_or_again_is_no_gap() -> None:
    check = checked(BINANCE, single(0, 1, 4, 2, 2, 3, 4, 5))
    assert gaps(check) == []
    check = checked(BINANCE, [(0, 1, 1, 7), (0, 8, 9, 9)], [(0, 3, 5, 8)])
    assert gaps(check) == []


def test_a_hole_is_due_only_after_the_bound_of_reordering() -> None:
    check = checked(BINANCE, single(0, 1, 4))
    assert gaps(check, NOW + REORDER_NS - 1) == []
    assert gaps(check, NOW + REORDER_NS) == [(SYMBOLS[0], 2, 3)]


def test_healed_rows_fill_holes() -> None:
    check = checked(BINANCE, single(0, 1, 9))
    check.check(*batch(single(0, 3, 4), HEALED))
    assert gaps(check) == [(SYMBOLS[0], 2, 2), (SYMBOLS[0], 5, 8)]


def test_the_reason_is_what_came_between() -> None:
    check = checked(BINANCE, single(0, 1) + single(1, 1))
    check.interrupted(DISCONNECT)
    check.check(*batch(single(0, 3, 4, 7)))
    assert [g.reason for g in check.due()] == [DISCONNECT, SEQUENCE]
    check.interrupted(RESTART)
    check.check(*batch(single(1, 5)))
    assert [g.reason for g in check.due()] == [RESTART]


def test_codes_may_change_between_batches() -> None:
    check = checked(BINANCE, single(0, 1))
    trades, aggregates = batch(single(1, 2))
    trades.symbols = SYMBOLS[::-1]
    check.check(trades, aggregates)
    assert gaps(check) == []


def test_a_backlog_that_overlaps_proves_that_nothing_is_missing() -> None:
    check = checked(HYPERLIQUID, single(0, 900, 17, 333))
    check.check(*batch(single(0, 17, 333, 555, 444), BACKLOG, NOW + 5))
    assert check.due() == []


def test_a_backlog_without_overlap_is_a_gap_of_unknown_size() -> None:
    check = checked(HYPERLIQUID, single(0, 900, 17) + single(1, 5))
    check.interrupted(DISCONNECT)
    check.check(*batch(single(0, 333, 555), BACKLOG, NOW + 5))
    assert check.due() == [
        Gap(SYMBOLS[0], FILLS, None, None, None, DISCONNECT, NOW + 1, NOW + 5, NOW + 5)
    ]


def test_a_first_backlog_is_no_gap_and_memory_is_bounded() -> None:
    check = continuity(HYPERLIQUID)
    check.check(*batch(single(0, *range(30)), BACKLOG))
    check.check(*batch(single(0, *range(100, 100 + RECENT_FILLS))))
    assert check.due() == []
    check.check(*batch(single(0, 29), BACKLOG, NOW + 1))
    assert len(check.due()) == 1


@pytest.mark.parametrize(("fills", "missing"), [(BACKLOG_FILLS, 1), (BACKLOG_FILLS - 1, 0)])
def test_a_full_backlog_after_an_interruption_may_not_reach_back_to_the_first_fill(
    fills: int, missing: int
) -> None:
    check = checked(HYPERLIQUID, single(1, 5))
    check.covered(SYMBOLS, NOW - 9)
    check.interrupted(DISCONNECT)
    check.check(*batch(single(0, *range(100, 100 + fills)), BACKLOG, NOW + 5))
    found = [(g.symbol, g.kind, g.reason, g.exchange_to) for g in check.due()]
    assert found == [(SYMBOLS[0], FILLS, DISCONNECT, NOW + 5)] * missing
    check.check(*batch(single(0, 100), BACKLOG, NOW + 6))
    assert check.due() == []


def test_two_backlogs_and_live_fills_in_one_batch() -> None:
    check = checked(HYPERLIQUID, single(0, 1))
    parts = [
        batch(single(0, 2, 3), LIVE, NOW)[0],
        batch(single(0, 3, 4), BACKLOG, NOW + 1)[0],
        batch(single(0, 8), BACKLOG, NOW + 2)[0],
        batch(single(0, 9), LIVE, NOW + 3)[0],
    ]
    columns = zip(*(p.columns() for p in parts), strict=True)
    check.check(Trades(SYMBOLS, *(np.concatenate(c) for c in columns)))
    assert [(g.exchange_ts, g.exchange_to) for g in check.due()] == [(NOW + 2, NOW + 2)]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_gaps_are_exactly_the_ids_that_never_came(data: st.DataObject) -> None:
    """Whatever is dropped, repeated or out of order, and however it is cut in batches."""
    n = data.draw(st.integers(2, 40))
    kept = data.draw(st.sets(st.integers(1, n))) | {0, n + 1}
    rows: list[tuple[int, int]] = [(i, code) for code in (0, 1) for i in sorted(kept)]
    rows = data.draw(st.permutations(rows)) if data.draw(st.booleans()) else rows
    rows = [(0, 0), (0, 1), *rows, *data.draw(st.lists(st.sampled_from(rows), max_size=5))]
    check = IdContinuity()
    while rows:
        size = data.draw(st.integers(1, len(rows)))
        check.check(*batch([(code, i, i, 0) for i, code in rows[:size]]))
        rows = rows[size:]
    missing = {
        (g.symbol, i)
        for g in check.due()
        for i in range(g.first_missing or 0, (g.last_missing or 0) + 1)
    }
    assert missing == {(s, i) for s in SYMBOLS for i in range(n + 2) if i not in kept}
    assert check.top(SYMBOLS[0]) == n + 1


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_what_is_left_of_a_gap(a: int, b: int, c: int, d: int) -> None:
    (first, last), (low, high) = sorted((a, b)), sorted((c, d))
    gap = Gap("s", "ids", first, last, last - first + 1, SEQUENCE, 0, 0, 0)
    left = without(gap, low, high)
    ids = [i for g in left for i in range(g.first_missing or 0, (g.last_missing or 0) + 1)]
    assert ids == [i for i in range(first, last + 1) if not low <= i <= high]
    assert sum(g.missing or 0 for g in left) == len(ids)
