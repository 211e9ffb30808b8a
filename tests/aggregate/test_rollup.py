"""Merged bars equal direct ones: whatever interval the ticks are grouped by, and via whichever."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate.datasets import Merge, datasets
from aggregate.groups import Groups, Rows
from aggregate.intervals import INTERVALS, LADDER, NS
from aggregate.rollup import Ladder
from tests.aggregate import strategies
from tests.aggregate.helpers import batch

ONE_SECOND = LADDER[0]


def sorted_ticks(kind, ticks):
    """One batch in canonical order of the exchange clock."""
    real = [t for t in ticks if not t.get("off_book")]
    real.sort(key=lambda t: (t["symbol"], t["exchange_ts"], t["sequence"]))
    return batch(kind, real) if real else None


def rows_of(ticks, of, window):
    groups = Groups(ticks.code, window, ticks.exchange_ts)
    parts = {d.name: d.from_ticks(ticks, groups) for d in of}
    return Rows(groups.first(ticks.code), groups.first(window), parts)


def windows(ticks, seconds):
    return ticks.exchange_ts // NS // seconds * seconds


def magnitudes(ticks, of, groups):
    """{dataset: {column: Σ|x|}} of each group: what the error of a sum is measured by."""
    alone = rows_of(ticks, of, np.arange(len(ticks)))
    return {
        d.name: {c: groups.sum(np.abs(np.nan_to_num(v))) for c, v in alone.parts[d.name].items()}
        for d in of
    }


@pytest.mark.parametrize("kind", ["trades", "quotes"])
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_merged_partials_equal_those_computed_directly(kind, data):
    ticks = sorted_ticks(kind, data.draw(getattr(strategies, kind)()))
    if ticks is None:
        return
    of = [d for d in datasets() if d.kind == kind]
    seconds = windows(ticks, 1)
    merged = dict(Ladder(of).advance(rows_of(ticks, of, seconds), 1 << 40))
    assert list(merged) == list(LADDER)
    for interval, rows in merged.items():
        window = windows(ticks, interval.seconds)
        direct = rows_of(ticks, of, window)
        scale = magnitudes(ticks, of, Groups(ticks.code, window))
        assert np.array_equal(rows.code, direct.code)
        assert np.array_equal(rows.start, direct.start)
        for dataset in of:
            for column, rule in dataset.partial.items():
                got, want = (r.parts[dataset.name][column] for r in (rows, direct))
                where = f"{dataset.name}.{column} at {interval.name}"
                assert got.dtype == want.dtype, where
                if rule is not Merge.SUM:
                    np.testing.assert_array_equal(got, want, where)
                else:
                    allowed = 1e-12 * np.maximum(scale[dataset.name][column], np.abs(want))
                    assert (np.abs(got - want) <= allowed).all(), where


@settings(max_examples=30, deadline=None)
@given(strategies.trades(), strategies.quotes(), st.sets(st.sampled_from(LADDER[1:-1])))
def test_a_bar_does_not_depend_on_the_levels_below_it(trades, quotes, skipped):
    """To 1e-12 of Σ|x| for sums, exactly for the rest: seconds straight to a day, or by steps."""
    for kind, drawn in (("trades", trades), ("quotes", quotes)):
        ticks = sorted_ticks(kind, drawn)
        if ticks is None:
            continue
        of = [d for d in datasets() if d.kind == kind]
        day = INTERVALS["1d"]
        want = dict(Ladder(of).advance(rows_of(ticks, of, windows(ticks, 1)), 1 << 40))[day]
        rows = rows_of(ticks, of, windows(ticks, 1))
        for level in LADDER[1:]:
            if level not in skipped:
                rows = merge(rows, of, level.seconds)
        scale = magnitudes(ticks, of, Groups(ticks.code, windows(ticks, day.seconds)))
        for dataset in of:
            for column, rule in dataset.partial.items():
                got, expected = (r.parts[dataset.name][column] for r in (rows, want))
                if rule is not Merge.SUM:
                    np.testing.assert_array_equal(got, expected, column)
                else:
                    allowed = 1e-12 * np.maximum(scale[dataset.name][column], np.abs(expected))
                    assert (np.abs(got - expected) <= allowed).all(), column


def merge(rows, of, seconds):
    window = rows.start - rows.start % seconds
    groups = Groups(rows.code, window)
    parts = {d.name: d.merge(rows.parts[d.name], groups) for d in of}
    return Rows(groups.first(rows.code), groups.first(window), parts)


@settings(max_examples=30, deadline=None)
@given(strategies.quotes(), st.lists(st.integers(0, 100_000), max_size=5))
def test_at_most_41_rows_are_held_per_instrument(quotes, cuts):
    ticks = sorted_ticks("quotes", quotes)
    if ticks is None:
        return
    of = [d for d in datasets() if d.kind == "quotes"]
    ladder = Ladder(of)
    second = windows(ticks, 1)
    done = 0
    for cut in [*sorted(strategies.BASE + c for c in cuts), strategies.BASE + 200_000]:
        now = (second >= done) & (second < cut)
        part = ticks.take(now)
        rows = rows_of(part, of, second[now]) if len(part) else None
        ladder.advance(rows, cut)
        done = cut
        assert ladder.rows_held() <= 41 * len(ticks.symbols)
