from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from ingest.clock import STEP_NS, ArrivalClock

START = 1_792_000_000_000_000_000


def reading(values: list[int]) -> Callable[[], int]:
    iterator = iter(values)
    return lambda: next(iterator)


def test_a_step_back_holds_the_last_stamp_until_the_wall_has_caught_up() -> None:
    wall = [START, START + 10, START - 5, START + 4, START + 11]
    clock = ArrivalClock(reading(wall), reading([0, 10, 20, 29, 36]))
    assert [clock.now() for _ in range(4)] == [START + 10, START + 10, START + 10, START + 11]
    assert (clock.steps_back, clock.steps_forward) == (1, 0)


def test_a_step_forward_is_followed_and_counted_once() -> None:
    step = STEP_NS + 1_000
    clock = ArrivalClock(reading([START, START + step + 5, START + step + 9]), reading([0, 5, 9]))
    assert [clock.now(), clock.now()] == [START + step + 5, START + step + 9]
    assert (clock.steps_back, clock.steps_forward) == (0, 1)


def test_a_step_back_that_elapsed_time_hides_is_counted() -> None:
    elapsed = 10 * STEP_NS
    clock = ArrivalClock(reading([START, START + elapsed - 2 * STEP_NS]), reading([0, elapsed]))
    assert clock.now() > START
    assert clock.steps_back == 1


def test_a_slewed_clock_has_no_steps() -> None:
    second = 1_000_000_000
    wall = [START + i * (second + 500_000) for i in range(100)]
    clock = ArrivalClock(reading(wall), reading([i * second for i in range(100)]))
    assert [clock.now() for _ in range(99)] == wall[1:]
    assert (clock.steps_back, clock.steps_forward) == (0, 0)


@given(st.lists(st.integers(0, 2**62), min_size=2))
def test_never_decreases_and_never_exceeds_what_the_wall_showed(wall: list[int]) -> None:
    clock = ArrivalClock(reading(wall), reading(list(range(len(wall)))))
    stamps = [clock.now() for _ in wall[1:]]
    assert stamps == [max(wall[: i + 2]) for i in range(len(stamps))]
