"""Ranges of ids do what sets of ids do."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from publish.audit.idranges import IdRanges

spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)))


def ranges_of(chosen: list[tuple[int, int]], parts: int) -> IdRanges:
    found = IdRanges()
    for i in range(parts):
        some = np.array(chosen[i::parts], np.int64).reshape(-1, 2)
        found.add(some[:, 0], some[:, 0] + some[:, 1])
        assert found.count() >= 0  # settles in between
    return found


def ids(chosen: list[tuple[int, int]]) -> set[int]:
    return {i for first, more in chosen for i in range(first, first + more + 1)}


def as_set(found: IdRanges) -> set[int]:
    starts, ends = found.ranges[:, 0], found.ranges[:, 1]
    assert (starts[1:] > ends[:-1] + 1).all()
    return {i for a, b in found.ranges.tolist() for i in range(a, b + 1)}


@given(spans, spans, st.integers(0, 70), st.integers(0, 70), st.integers(1, 3))
def test_as_sets(a: list, b: list, first: int, last: int, parts: int) -> None:
    mine, other = ranges_of(a, parts), ranges_of(b, parts)
    assert as_set(mine) == ids(a)
    assert mine.count() == len(ids(a))
    assert as_set(mine.holes(first, last)) == set(range(first, last + 1)) - ids(a)
    assert as_set(mine.both(other)) == ids(a) & ids(b)
