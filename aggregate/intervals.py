"""The ladder of bar intervals: each is merged from the one before it."""

from dataclasses import dataclass
from typing import Final

EXCHANGE: Final = "exchange"
TRUE: Final = "true"
CLOCKS: Final = (EXCHANGE, TRUE)

NS: Final = 1_000_000_000
DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Interval:
    """A bar length, aligned to the Unix epoch; windows are half-open `[start, start + seconds)`."""

    name: str
    seconds: int


LADDER: Final = (
    Interval("1s", 1),
    Interval("15s", 15),
    Interval("30s", 30),
    Interval("1m", 60),
    Interval("5m", 300),
    Interval("15m", 900),
    Interval("30m", 1800),
    Interval("1h", 3600),
    Interval("4h", 14_400),
    Interval("1d", DAY),
)
INTERVALS: Final = {interval.name: interval for interval in LADDER}
