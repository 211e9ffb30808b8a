"""Market time: how far the simulated markets have gone."""

import time
from collections.abc import Callable


class MarketClock:
    """Nanoseconds of market time, `speed` times as fast as the machine's; it starts paused."""

    def __init__(self, speed: float, monotonic: Callable[[], int] = time.monotonic_ns) -> None:
        self._speed = speed
        self._monotonic = monotonic
        self._gone = 0
        self._since: int | None = None

    def now(self) -> int:
        if self._since is None:
            return self._gone
        return self._gone + round((self._monotonic() - self._since) * self._speed)

    def resume(self) -> None:
        if self._since is None:
            self._since = self._monotonic()

    def pause(self) -> None:
        self._gone = self.now()
        self._since = None

    def slip(self, nanoseconds: int) -> None:
        """Set it back by so much market time."""
        self._gone -= nanoseconds
