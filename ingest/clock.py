"""The arrival clock: wall time that never runs backwards within a session (DESIGN decision 3)."""

import time
from collections.abc import Callable

STEP_NS = 100_000_000
"""A change of (wall - monotonic) between two readings above this is a step of the wall clock.

NTP slews by at most 0.5 ms a second and a collector reads its clock several times a second; what
else moves the difference is preemption between the two readings, which stays below this.
"""


class ArrivalClock:
    """Nanoseconds since the epoch, never decreasing.

    A wall clock stepped back holds the last value until it has caught up; a step forward is
    followed at once. Both are counted, in `steps_back` and `steps_forward`; forward steps are
    seen against a monotonic clock.
    """

    __slots__ = (
        "_last",
        "_monotonic",
        "_offset",
        "_wall",
        "_wall_ns",
        "steps_back",
        "steps_forward",
    )

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._last = self._wall_ns = wall()
        self._offset = self._last - monotonic()
        self.steps_back = 0
        self.steps_forward = 0

    def now(self) -> int:
        """The time in ns; at least what the call before returned."""
        wall = self._wall()
        offset = wall - self._monotonic()
        shift = offset - self._offset
        if wall < self._wall_ns or shift < -STEP_NS:
            self.steps_back += 1
        elif shift > STEP_NS:
            self.steps_forward += 1
        self._offset = offset
        self._wall_ns = wall
        if wall > self._last:
            self._last = wall
        return self._last
