"""Quantiles from bins against sorted values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from publish.audit.latency import Latencies


@given(st.lists(st.integers(-(10**12), 10**15), min_size=1), st.floats(0, 1))
def test_within_a_percent_of_the_value(values: list[int], q: float) -> None:
    found = Latencies()
    for part in (values[::2], values[1::2]):
        more = Latencies()
        more.add(np.array(part, np.int64))
        found.merge(more)
    ordered = sorted(values)
    want = ordered[max(int(np.ceil(q * len(ordered))), 1) - 1]
    assert found.quantile(q) == pytest.approx(want, rel=0.008, abs=0.5)


def test_of_nothing_there_is_none() -> None:
    assert Latencies().quantile(0.5) is None
