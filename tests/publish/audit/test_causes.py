"""Which cause a difference is given."""

import numpy as np

from publish.audit.accounts import TickAccount
from publish.audit.causes import Cause, Explained, explain
from publish.audit.compare import EXTRA, MISSING, SCORES, VALUES, Differences
from tests.publish.audit.ticks import NS, START, quotes, trades

SECOND = START // NS


def causes(how: list[int], at: list[int], **options: object) -> list[Cause]:
    """Of bars that start so many seconds after START; late ticks are of 1, 2, healed of 2, 9."""
    ticks = TickAccount("okx-perps", START, START + 100 * NS, 5 * NS)
    ticks.add(trades([1, 2], [1.0, 2.0], latency=10.0))
    ticks.add(trades([3, 4], [2.0, 9.0], latency=10.0, origin=2))
    ticks.add(quotes([50.0], 10.0))
    start = np.array([(SECOND + s) * 1_000_000 for s in at], np.int64)
    found = Differences(start, np.array(how, np.int8))
    given = {
        "known": np.ones(len(at), bool), "seconds": 1, "clock": "exchange", "kind": "trades",
        "lagging": False,
    }  # fmt: skip
    told = explain(found, ticks=ticks, **{**given, **options})
    assert told.start is start
    return [list(Cause)[code] for code in told.cause.tolist()]


def test_late_ticks_before_healed_ones() -> None:
    how = [VALUES, MISSING, EXTRA, VALUES]
    assert causes(how, [1, 2, 9, 10]) == [Cause.LATE, Cause.LATE, Cause.HEALED, Cause.OTHER]
    assert causes([VALUES] * 3, [0, 3, 9], seconds=3) == [Cause.LATE, Cause.OTHER, Cause.HEALED]


def test_ticks_of_another_kind_or_clock_explain_nothing() -> None:
    assert causes([VALUES] * 2, [1, 50], kind="quotes") == [Cause.OTHER, Cause.LATE]
    assert causes([VALUES], [1], clock="true") == [Cause.OTHER]


def test_what_is_left_is_of_an_evicted_collector_if_there_was_one() -> None:
    assert causes([VALUES] * 2, [1, 30], lagging=True) == [Cause.LATE, Cause.LAGGING]
    assert causes([VALUES], [1], clock="true", lagging=True) == [Cause.LAGGING]


def test_scores_follow_from_earlier_bars() -> None:
    assert causes([SCORES, VALUES], [1, 1]) == [Cause.TOXICITY, Cause.LATE]


def test_what_lives_rules_do_not_give_is_a_defect_whatever_else() -> None:
    not_as_live = np.zeros(2, bool)
    assert causes([SCORES, VALUES], [1, 1], known=not_as_live, lagging=True) == [Cause.OTHER] * 2


def test_counts_leave_out_what_there_is_none_of() -> None:
    told = Explained(np.arange(3), np.array([2, 0, 2], np.int8))
    assert told.count() == {Cause.OTHER: 1, Cause.LATE: 2}
