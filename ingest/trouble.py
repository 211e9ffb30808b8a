"""What keeps failing is told when it begins, for each new reason, ever more rarely while it lasts,
and when it is over: not once for every attempt.
"""

import time
from collections.abc import Callable, Hashable

import structlog

REMIND_S = 60.0
"""From the first line to the first reminder; doubles."""
MAX_REMIND_S = 3600.0
REASONS = 5
"""Reasons told between two reminders; where a venue finds ever new ones, more say nothing."""


class Trouble:
    """One thing that several may fail at: over when none of them does any more.

    `what` is the line that tells of it, `good` the one that ends it.
    """

    def __init__(
        self,
        log: "structlog.stdlib.BoundLogger",
        what: str,
        good: str,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._what = what
        self._good = good
        self._now = now
        self._failing: set[Hashable] = set()
        self._told: set[str] = set()
        self._since = 0.0
        self._attempts = 0
        self._remind_s = REMIND_S
        self._remind_at = 0.0

    def failed(self, reason: str, who: Hashable = None) -> None:
        """`who` has failed (again) for this reason."""
        now = self._now()
        if not self._failing:
            self._since, self._attempts, self._remind_s = now, 0, REMIND_S
            self._told.clear()
            self._remind_at = now + REMIND_S
        self._failing.add(who)
        self._attempts += 1
        if now >= self._remind_at:
            self._log.warning(
                self._what, reason=reason, attempts=self._attempts, for_s=round(now - self._since)
            )
            self._remind_s = min(2 * self._remind_s, MAX_REMIND_S)
            self._remind_at = now + self._remind_s
            self._told = {reason}
        elif reason not in self._told and len(self._told) < REASONS:
            self._log.warning(self._what, reason=reason)
            self._told.add(reason)

    def forget(self, who: Hashable = None) -> None:
        """`who` doesn't try any more."""
        self._failing.discard(who)

    def over(self, who: Hashable = None) -> None:
        """`who` doesn't fail any more; told if it was the last that did."""
        if who in self._failing:
            self._failing.discard(who)
            if not self._failing:
                after = round(self._now() - self._since, 1)
                self._log.info(self._good, after_s=after, attempts=self._attempts)
