"""A month of one instrument from raw ticks to bars: the unit of work of replay and audit.

The unit is a plain value; any process that reaches the area makes the same bars of it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa

from aggregate.intervals import CLOCKS
from aggregate.shard import Rules
from publish.layout import Series
from publish.replay.ticks_in import Area


@dataclass(frozen=True, slots=True)
class MonthUnit:
    """One instrument's calendar month (UTC).

    `rules.lateness_ns` None: the complete truth; else what live did, by sessions and evictions too.
    """

    area: Area
    exchange: str
    symbol: str
    year: int
    month: int
    rules: Rules
    clocks: tuple[str, ...] = CLOCKS


@dataclass(slots=True)
class Account:
    """What became of a unit's ticks; filled while `month_bars` is read."""

    read: Counter[str] = field(default_factory=Counter)
    """Ticks by kind."""
    dropped: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Ticks left out and windows withheld, by (clock, kind, reason)."""
    gaps: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    """Arrival stamps (ns) of the first and last tick read."""
    sources: dict[str, str] = field(default_factory=dict)
    """Digest of each file read, by key."""


def month_bars(unit: MonthUnit, account: Account) -> Iterator[tuple[Series, date, pa.Table]]:
    """Whole UTC days of bars: per series in time order, `time` first, then the dataset's columns.

    Raises `StoreError`.
    """
    raise NotImplementedError
