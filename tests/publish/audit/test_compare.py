"""Two versions of a day's bars: which bars differ, and how."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from publish.audit.compare import EXTRA, MISSING, SCORES, VALUES, compare


def table(start: list[int], **columns: list[object]) -> pa.Table:
    time = pa.array(np.array(start, np.int64)).view(pa.timestamp("us"))
    return pa.table({"time": time, **columns})


def differences(truth: pa.Table, published: pa.Table) -> list[tuple[int, int]]:
    found = compare(truth, published)
    return list(zip(found.start.tolist(), found.how.tolist(), strict=True))


def test_each_bar_that_differs_is_told_once_and_how() -> None:
    truth = table([1, 2, 3, 4], a=[1.0, 2.0, None, 4.0], flow_toxicity_score=[0.0, 1.0, 2.0, 3.0])
    other = table([0, 1, 3, 4], a=[9.0, 1.0, 3.0, 4.0], flow_toxicity_score=[0.0, 0.0, 0.0, 9.0])
    assert differences(truth, other) == [
        (0, EXTRA), (2, MISSING), (3, VALUES), (4, SCORES)
    ]  # fmt: skip


def test_bits_count_not_values() -> None:
    nan = float("nan")
    assert differences(table([1], a=[0.0]), table([1], a=[-0.0])) == [(1, VALUES)]
    assert differences(table([1], a=pa.array([nan])), table([1], a=pa.array([None], "f8"))) == [
        (1, VALUES)
    ]
    assert differences(table([1], a=pa.array([nan])), table([1], a=pa.array([nan]))) == []
    nothing = table([1], a=pa.array([None], pa.float64()))
    assert differences(nothing, nothing) == []
    assert differences(table([1], n=[2**53]), table([1], n=[2**53 + 1])) == [(1, VALUES)]


def test_a_column_that_is_not_published_is_null_there() -> None:
    assert differences(table([1, 2], a=[1.0, 2.0], b=[None, 3.0]), table([1, 2], a=[1.0, 2.0])) == [
        (2, VALUES)
    ]
    # What an older version published beside them is its own.
    assert differences(table([1], a=[1.0]), table([1], a=[1.0], gone=[5.0])) == []


def test_nothing_against_something() -> None:
    some = table([5, 6], a=[1.0, 2.0])
    assert differences(some, some.slice(0, 0)) == [(5, MISSING), (6, MISSING)]
    assert differences(some.slice(0, 0), some) == [(5, EXTRA), (6, EXTRA)]
    assert differences(some, some) == []


rows = st.dictionaries(
    st.integers(0, 30), st.tuples(st.one_of(st.none(), st.floats()), st.integers(0, 5))
)


@given(rows, rows)
def test_as_a_dictionary_compares(a: dict, b: dict) -> None:
    def as_table(of: dict) -> pa.Table:
        at = sorted(of)
        floats = pa.array([of[t][0] for t in at], pa.float64())
        return table(at, x=floats, n=pa.array([of[t][1] for t in at], pa.int64()))

    def bits(row: tuple) -> tuple:
        return (None if row[0] is None else np.float64(row[0]).tobytes(), row[1])

    want = [
        (t, MISSING if t not in b else EXTRA if t not in a else VALUES)
        for t in sorted(a.keys() | b.keys())
        if t not in a or t not in b or bits(a[t]) != bits(b[t])
    ]
    assert differences(as_table(a), as_table(b)) == want
