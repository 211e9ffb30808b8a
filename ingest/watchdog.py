"""When silence means that a channel is dead: a deadline from the channel's own recent rate.

A venue may acknowledge a subscription and never send (EXCHANGES §1.1), so only data proves that a
channel lives. Pure: the caller says what time it is (seconds on any monotonic clock).
"""

from math import exp

FLOOR_S = 10.0
CEILING_S = 300.0
FIRST_S = 60.0
"""Silence allowed to a channel of which nothing is known yet."""
RATE_SPAN_S = 60.0
"""Time constant of the rate: what is older hardly counts."""
GAP_SPAN_S = 900.0
"""Time constant with which the longest recent pause is forgotten."""
MISSED = 50.0
"""Messages, at the recent rate, whose absence is silence: by chance it happens e^-50 often."""
GAPS = 3.0
"""Silence allowed, in longest recent pauses: markets are burstier than chance."""


class Watchdog:
    """The silence of one channel of one connection.

    `start` when it was subscribed (again), `heard` for messages, `expired` asks. What was learned
    of the rate outlives a connection; each expiry without a message doubles the next deadline, so
    a market that is just quiet isn't resubscribed again and again.
    """

    def __init__(
        self, floor: float = FLOOR_S, ceiling: float = CEILING_S, first: float = FIRST_S
    ) -> None:
        if not 0 < floor <= first <= ceiling:
            raise ValueError(f"needs 0 < floor <= first <= ceiling: {floor}, {first}, {ceiling}")
        self._floor = floor
        self._ceiling = ceiling
        self._first = first
        self._rate = 0.0
        self._gap = 0.0
        self._patience = 1.0
        self._known = False
        self._since: float | None = None
        self._heard_at: float | None = None

    @property
    def deadline(self) -> float:
        """Seconds of silence after which the channel is taken for dead."""
        if not self._known:
            due = self._first
        else:
            expected = MISSED / self._rate if self._rate > 0 else self._ceiling
            due = max(expected, GAPS * self._gap)
        return min(max(due, self._floor) * self._patience, self._ceiling)

    def start(self, now: float) -> None:
        """The channel was subscribed: silence counts from here."""
        self._since = now
        self._heard_at = None

    def heard(self, now: float, messages: int = 1) -> None:
        """`messages` arrived since the last call."""
        if self._heard_at is not None:
            pause = max(now - self._heard_at, 0.0)
            self._rate = self._rate * exp(-pause / RATE_SPAN_S)
            self._gap = max(pause, self._gap * exp(-pause / GAP_SPAN_S))
        self._rate += messages / RATE_SPAN_S
        self._known = True
        self._patience = 1.0
        self._heard_at = self._since = now

    def expired(self, now: float) -> bool:
        """Whether the channel has been silent for longer than its deadline."""
        return self._since is not None and now - self._since > self.deadline

    def give_up(self, now: float) -> None:
        """It expired and is subscribed anew: silence counts from now, and is allowed longer."""
        self._patience = min(self._patience * 2, self._ceiling / self._floor)
        self.start(now)
