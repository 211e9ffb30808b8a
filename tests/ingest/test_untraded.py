"""Doubts about symbols that had not traded when a connection was lost."""

from ingest.untraded import NOTICED_NS, Untraded
from tests.ingest.test_continuity import NOW, SYMBOLS, batch, single


def test_a_symbol_that_trades_for_the_first_time_after_an_interruption_is_in_doubt() -> None:
    untraded = Untraded()
    untraded.covered(SYMBOLS, NOW - 9)
    assert untraded.check(batch(single(0, 1), at=NOW)[0]) == []
    untraded.interrupted()
    assert untraded.check(batch(single(0, 2), at=NOW + 3)[0]) == []
    trades = batch([*single(0, 3), *single(1, 70, 71)], at=NOW + 5)[0]
    assert untraded.check(trades) == [(SYMBOLS[1], NOW - NOTICED_NS, NOW + 6, NOW + 5)]
    assert untraded.check(batch(single(1, 72), at=NOW + 9)[0]) == []


def test_without_an_interruption_there_is_no_doubt() -> None:
    untraded = Untraded()
    untraded.interrupted()
    untraded.covered(SYMBOLS, NOW)
    assert untraded.check(batch([*single(0, 5), *single(1, 9)])[0]) == []


def test_of_several_interruptions_the_first_counts() -> None:
    untraded = Untraded()
    untraded.covered(SYMBOLS[1:], NOW - 9)
    untraded.interrupted()
    untraded.check(batch(single(0, 1), at=NOW)[0])
    untraded.interrupted()
    ((_, since, until, _),) = untraded.check(batch(single(1, 70), at=NOW + 5)[0])
    assert (since, until) == (NOW - 9, NOW + 5)


def test_a_dead_stream_puts_its_own_symbol_in_doubt_alone() -> None:
    untraded = Untraded()
    untraded.covered(SYMBOLS, NOW - 9)
    untraded.interrupted([SYMBOLS[1], "perpetual-NOPE"])
    trades = batch([*single(0, 3), *single(1, 70)], at=NOW)[0]
    assert [symbol for symbol, *_ in untraded.check(trades)] == [SYMBOLS[1]]


def test_a_dead_connection_is_noticed_late_and_a_dead_stream_any_time_later() -> None:
    began = NOW - 9 * NOTICED_NS
    for dead, since in ((None, NOW - NOTICED_NS), (SYMBOLS[1:], began)):
        untraded = Untraded()
        untraded.covered(SYMBOLS[1:], began)
        untraded.check(batch(single(0, 1), at=NOW)[0])  # by another connection
        untraded.interrupted(dead)
        ((_, doubted, until, _),) = untraded.check(batch(single(1, 70), at=NOW + 5)[0])
        assert (doubted, until) == (since, NOW + 5)
