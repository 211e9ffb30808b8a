"""Completeness, lateness and latency from ticks and gaps."""

import numpy as np
import pytest

from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.ticks import BACKLOG, HEALED
from publish.audit.accounts import HEALED as HEALED_LATE
from publish.audit.accounts import LATE, Completeness, TickAccount
from tests.publish.audit.ticks import MS, NS, START, gaps, quotes, trades

END = START + 100 * NS


def account(*batches, exchange: str = OKX) -> TickAccount:
    found = TickAccount(exchange, START, END, 5 * NS)
    for batch in batches:
        found.add(batch)
    return found


def test_nothing_missing_is_complete_and_copies_count_once() -> None:
    found = account(trades([1, 2, 3], [1, 2, 3]), trades([2, 3, 4], [2, 3, 4]))
    assert found.completeness(gaps()) == Completeness(4, 4, 0, 0, 0, 0)
    assert found.rows == {"trades": 6}


def test_healed_trades_count_apart_and_what_is_still_missing() -> None:
    live = trades([10, 11, 20], [1, 2, 3])
    healed = trades([12, 13, 14, 11], [2, 2, 2, 2], latency=60.0, origin=HEALED)
    found = account(live, healed)
    assert found.completeness(gaps((12, 19, 5))) == Completeness(11, 3, 3, 5, 0, 0)
    assert found.completeness(gaps((12, 19, 5))).share == pytest.approx(6 / 11)


def test_ids_still_missing_in_a_gap_healed_whole_are_no_trades() -> None:
    live, healed = trades([1, 9], [1, 9]), trades([3, 5], [3, 5], origin=HEALED)
    assert account(live, healed).completeness(gaps((2, 8, 0))) == Completeness(4, 2, 2, 0, 0, 0)
    # A second collector's record of the same gap, which could not heal it, changes nothing.
    both = gaps((2, 8, 0), (2, 8, 7))
    assert account(live, healed).completeness(both) == Completeness(4, 2, 2, 0, 0, 0)


@pytest.mark.parametrize("exchange", [OKX, BINANCE])
def test_ids_missing_outside_any_gap_are_told(exchange: str) -> None:
    found = account(trades([2, 6, 7], [1, 6, 7]), exchange=exchange)
    assert found.completeness(gaps()) == Completeness(6, 3, 0, 3, 3, 0)


def test_beside_aggregates_of_binance_they_are_no_market_prints() -> None:
    some = trades([2, 6, 8], [1, 6, 7], count=[2, 1, 2])
    assert account(some, exchange=BINANCE).completeness(gaps()) == Completeness(5, 5, 0, 0, 0, 0)
    assert account(some, exchange=OKX).completeness(gaps()) == Completeness(8, 5, 0, 3, 3, 0)
    known = gaps((3, 5, 3))
    assert account(some, exchange=BINANCE).completeness(known) == Completeness(8, 5, 0, 3, 0, 0)


def test_what_hyperliquid_should_have_sent_is_unknown() -> None:
    found = account(trades([7, 900], [1, 2]), exchange=HYPERLIQUID)
    told = found.completeness(gaps((None, None, None), kind="fills"))
    assert (told.expected, told.share, told.unknown_gaps) == (None, None, 1)


def test_ids_count_by_their_stamp_whenever_they_arrived() -> None:
    """Days before and after the audited ones are not expected, but their ids are there."""
    found = account(trades([1, 2, 5, 6, 9], [-10, -0.1, 0.1, 99, 100]))
    found.add(trades([3, 4], [0.05, 0.06], latency=200.0, origin=HEALED))
    assert found.completeness(gaps()) == Completeness(2, 2, 0, 0, 0, 0)
    assert found.rows == {"trades": 4}


def test_late_is_by_both_stamps() -> None:
    edge = [1.5, 2.5, 3.999]
    on_time = trades([1, 2, 3], edge, latency=[5.499, 5.499, 5.0])
    late = trades([4, 5], [1.5, 2.5], latency=5.5)
    healed = trades([6, 7], [3.0, 4.0], latency=[9.0, 1.0], origin=HEALED)
    backlog = trades([8], [7.0], latency=30.0, origin=BACKLOG)
    off_book = trades([9], [8.0], latency=30.0, off_book=1)
    future = trades([10], [90.0], latency=-61.0)
    found = account(on_time, late, healed, backlog, off_book, future, quotes([1.0, 2.0], 7.0))
    assert found.late == {
        ("trades", LATE): 2,
        ("trades", HEALED_LATE): 2,
        ("quotes", LATE): 2,
        ("quotes", HEALED_LATE): 0,
    }
    assert (found.off_book, found.future["trades"], found.future["quotes"]) == (1, 1, 0)
    second = START // NS
    assert found.late_seconds("trades", LATE).tolist() == [second + 1, second + 2]
    assert found.late_seconds("trades", HEALED_LATE).tolist() == [second + 3, second + 7]
    assert found.late_seconds("quotes", LATE).tolist() == [second + 1, second + 2]


def test_latency_is_of_live_ticks_alone() -> None:
    waits = np.linspace(0.001, 0.1, 100)
    found = account(trades(range(100), waits, latency=waits))
    found.add(trades([1000], [1.0], latency=3600.0, origin=HEALED))
    assert found.latencies["trades"].quantile(0.5) == pytest.approx(50 * MS, rel=0.01)
    assert found.latencies["trades"].quantile(1.0) == pytest.approx(100 * MS, rel=0.01)
