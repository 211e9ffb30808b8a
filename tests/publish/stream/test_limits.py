"""Control frames: a burst, a rate, and an end."""

from publish.stream.limits import BURST, PATIENCE, PER_SECOND, ControlLimit, Verdict


def test_a_burst_then_a_rate_then_the_end() -> None:
    now = 0.0
    limit = ControlLimit(lambda: now)
    assert [limit.take() for _ in range(BURST)] == [Verdict.ALLOWED] * BURST
    assert limit.take() is Verdict.REFUSED
    now += 1 / PER_SECOND
    assert limit.take() is Verdict.ALLOWED
    assert [limit.take() for _ in range(PATIENCE - 1)] == [Verdict.REFUSED] * (PATIENCE - 1)
    assert limit.take() is Verdict.CLOSE
