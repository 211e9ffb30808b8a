"""Silence and its deadline, in virtual time."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.watchdog import CEILING_S, FIRST_S, FLOOR_S, GAPS, Watchdog

pauses = st.lists(st.floats(0.0, 400.0), min_size=1, max_size=60)


def heard(*times: float) -> Watchdog:
    watchdog = Watchdog()
    watchdog.start(0.0)
    for time in times:
        watchdog.heard(time)
    return watchdog


def test_a_channel_that_was_acknowledged_and_never_sends_is_found() -> None:
    watchdog = heard()
    assert not watchdog.expired(FIRST_S)
    assert watchdog.expired(FIRST_S + 0.1)


def test_nothing_expires_before_it_is_subscribed() -> None:
    assert not Watchdog().expired(1e9)


@given(pauses)
def test_the_deadline_is_between_floor_and_ceiling_and_silence_ends_in_expiry(
    pauses: list[float],
) -> None:
    times = list(accumulate(pauses))
    watchdog = heard(*times)
    assert FLOOR_S <= watchdog.deadline <= CEILING_S
    assert not watchdog.expired(times[-1] + FLOOR_S)
    assert watchdog.expired(times[-1] + CEILING_S + 0.1)


@given(st.floats(0.001, CEILING_S / GAPS - 1), st.integers(20, 300))
def test_a_steady_channel_never_expires_while_it_goes_on(pause: float, count: int) -> None:
    watchdog = Watchdog()
    watchdog.start(0.0)
    for i in range(1, count):
        now = i * pause
        assert i == 1 or not watchdog.expired(now)
        watchdog.heard(now)
    assert watchdog.deadline >= min(GAPS * pause * 0.9, CEILING_S)


def test_a_busy_channel_is_found_silent_at_the_floor_and_a_slow_one_is_given_time() -> None:
    busy = heard(*(i * 0.01 for i in range(20_000)))
    assert busy.deadline == FLOOR_S
    slow = heard(*(i * 20.0 for i in range(50)))
    assert slow.deadline > 60.0


def test_a_pause_that_was_survived_is_allowed_again() -> None:
    watchdog = heard(*(i * 0.1 for i in range(1_000)))
    watchdog.heard(100.0 + 9.0)
    assert watchdog.deadline >= 25.0


@given(pauses, st.integers(1, 10))
def test_expiries_in_a_row_are_ever_rarer_until_something_is_heard(
    pauses: list[float], expiries: int
) -> None:
    watchdog = heard(*accumulate(pauses))
    now = sum(pauses)
    before = watchdog.deadline
    for _ in range(expiries):
        now += CEILING_S + 1
        watchdog.give_up(now)
        assert not watchdog.expired(now)
        assert watchdog.deadline == min(before * 2, CEILING_S)
        before = watchdog.deadline


def test_bounds_that_contradict_are_refused() -> None:
    with pytest.raises(ValueError, match="floor <= first <= ceiling"):
        Watchdog(floor=10, ceiling=5)
