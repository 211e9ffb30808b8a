"""What is a copy: rising ids with prints of several ids, cut in any batches."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate.seen import RisingIds

Row = tuple[int, int, int]  # code, first id, last id


def fresh(seen: RisingIds, rows: list[Row]) -> list[Row]:
    """The rows that are new, of one batch, sorted by code as seals do."""
    rows = sorted(rows, key=lambda row: row[0])
    code, first, last = (np.array(column) for column in zip(*rows, strict=True))
    keep = seen.fresh(code.astype(np.int32), first, last)
    return [row for row, new in zip(rows, keep.tolist(), strict=True) if new]


def test_an_aggregate_over_trades_that_were_seen_is_a_copy() -> None:
    seen = RisingIds()
    assert fresh(seen, [(0, i, i) for i in range(1, 5)]) == [(0, i, i) for i in range(1, 5)]
    assert fresh(seen, [(0, 1, 4), (0, 3, 7), (0, 8, 9)]) == [(0, 8, 9)]
    # What the straddling one would have brought comes as trades: they are new.
    assert fresh(seen, [(0, i, i) for i in range(4, 9)]) == [(0, 5, 5), (0, 6, 6), (0, 7, 7)]


def test_trades_of_an_aggregate_that_was_seen_are_copies() -> None:
    seen = RisingIds()
    assert fresh(seen, [(0, 1, 6), (0, 6, 6), (0, 2, 2), (0, 7, 7)]) == [(0, 1, 6), (0, 7, 7)]
    assert fresh(seen, [(0, 3, 3), (0, 8, 8)]) == [(0, 8, 8)]


@st.composite
def batches(draw: st.DrawFn) -> list[list[Row]]:
    """Prints of 1 to 6 ids of two symbols, in any order."""
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, 1), st.integers(1, 40), st.integers(0, 5)),
            min_size=1,
            max_size=60,
        )
    )
    single = draw(st.booleans())
    found = [(code, first, first + (0 if single else more)) for code, first, more in rows]
    size = draw(st.integers(1, len(found)))
    return [found[i : i + size] for i in range(0, len(found), size)]


@settings(max_examples=400, deadline=None)
@given(batches())
def test_every_id_is_counted_at_most_once_and_a_print_is_left_out_only_for_one_that_was(
    given_batches: list[list[Row]],
) -> None:
    seen = RisingIds()
    counted: set[tuple[int, int]] = set()
    for rows in given_batches:
        expected = []
        for code, first, last in sorted(rows, key=lambda row: row[0]):
            ids = {(code, i) for i in range(first, last + 1)}
            if counted.isdisjoint(ids):
                counted |= ids
                expected.append((code, first, last))
        assert fresh(seen, rows) == expected
        for code in {code for code, _ in counted}:
            spans = [range(a, b + 1) for a, b in seen.ranges(code)]
            assert {(code, i) for span in spans for i in span} == {
                pair for pair in counted if pair[0] == code
            }
