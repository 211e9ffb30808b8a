"""A collector's resident memory stays where it is (benchmarks/bench_receive_memory.py measures)."""

import pytest

from benchmarks.bench_receive_memory import growth, measure

FRAMES_S = 20_000


@pytest.mark.parametrize(
    ("seconds", "most_mb"),
    # A leak of 100 bytes a frame is 13 MB from one third of 20 s to the next, 400 of 10 minutes.
    [(20.0, 6.0), pytest.param(600.0, 8.0, marks=pytest.mark.nightly)],
)
def test_memory_is_flat(seconds: float, most_mb: float) -> None:
    samples, frames = measure(seconds, FRAMES_S)
    assert frames > seconds * FRAMES_S / 4, "too few frames for the measurement to mean anything"
    assert growth(samples) < most_mb, samples


def test_growth_is_seen_where_there_is_some() -> None:
    assert growth([100.0] * 10 + [104.0] * 20) == 0.0
    assert growth([100.0 + i for i in range(30)]) == 10.0
