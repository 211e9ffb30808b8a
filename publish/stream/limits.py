"""How many control frames a connection may send: a token bucket, then some patience."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

BURST = 20
PER_SECOND = 5.0
PATIENCE = 20
"""Frames refused in a row before the connection is closed."""


class Verdict(Enum):
    ALLOWED = "allowed"
    REFUSED = "refused"
    CLOSE = "close"


@dataclass(slots=True)
class ControlLimit:
    """`clock`: monotonic seconds."""

    clock: Callable[[], float]
    _tokens: float = BURST
    _at: float = field(init=False)
    _refused: int = 0

    def __post_init__(self) -> None:
        self._at = self.clock()

    def take(self) -> Verdict:
        """Whether one more frame is all right now."""
        now = self.clock()
        self._tokens = min(BURST, self._tokens + (now - self._at) * PER_SECOND)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            self._refused = 0
            return Verdict.ALLOWED
        self._refused += 1
        return Verdict.CLOSE if self._refused >= PATIENCE else Verdict.REFUSED
