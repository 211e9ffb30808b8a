"""What a dataset is: partial columns from ticks, how partials merge, finished columns.

A dataset whose statistic does not merge (a median, a quantile) keeps as a partial column what does:
the values themselves, as an object column of one array per row, joined in its own `merge` and
reduced in `finish`. The ladder and the state (an Arrow list) take such a column as it is; only the
rules of `Merge` are for scalars. tests/aggregate/datasets/test_new_dataset.py has one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from aggregate.groups import Array, Groups, Partial
from aggregate.intervals import Interval
from ingest.ticks import F64, I32, I64


class Merge(Enum):
    """How a partial column of child windows becomes the parent's, children in time order."""

    SUM = "sum"
    TOTAL = "total"
    FIRST = "first"
    LAST = "last"
    MIN = "min"
    MAX = "max"
    LAST_VALID = "last_valid"


def _last_valid(groups: Groups, values: Array) -> Array:
    valid = ~np.isnan(values)
    if valid.all():
        return groups.last(values)
    index = groups.last_index(valid)
    return np.where(index >= 0, values[index], np.nan)


_RULES: Mapping[Merge, Callable[[Groups, Array], Array]] = {
    Merge.SUM: Groups.sum,
    Merge.TOTAL: Groups.total,
    Merge.FIRST: Groups.first,
    Merge.LAST: Groups.last,
    Merge.MIN: Groups.min,
    Merge.MAX: Groups.max,
    Merge.LAST_VALID: _last_valid,
}


@dataclass(frozen=True, slots=True)
class Column:
    """What a finished column is, in a sentence for its users: unit, and when it is null."""

    about: str
    type: Literal["float64", "int64"] = "float64"


class Memory(Protocol):
    """What a series remembers from bar to bar (per shard, clock and interval)."""

    def encode(self) -> bytes: ...

    def restore(self, value: bytes) -> None: ...


class Dataset(ABC):
    """One dataset of DATASETS.md, for ticks of one kind."""

    name: ClassVar[str]
    kind: ClassVar[str]
    about: ClassVar[str]
    """What it measures, in a sentence for its users."""
    partial: ClassVar[Mapping[str, Merge]]
    """Partial columns and their merge."""
    columns: ClassVar[Mapping[str, Column]]
    """Finished columns, in the order of the file."""

    @abstractmethod
    def from_ticks(self, ticks: Any, groups: Groups) -> Partial:
        """Partial columns (m,) of n ticks in canonical order; `ticks` is `Trades` or `Quotes`."""

    def merge(self, partial: Partial, groups: Groups) -> Partial:
        """Partial columns (m,) of the parents of n child rows in time order."""
        return {name: _RULES[rule](groups, partial[name]) for name, rule in self.partial.items()}

    def memory(self) -> Memory | None:
        """A new series memory, or None for a dataset whose bars stand alone."""
        return None

    @abstractmethod
    def finish(
        self, code: I32, start: I64, partial: Partial, interval: Interval, memory: Memory | None
    ) -> Partial:
        """Finished columns (n,) of rows sorted by code, then start; NaN stands for null."""


def share(part: Array, whole: Array) -> F64:
    """part / whole, NaN (null) where both are 0; a part is 0 where its whole is."""
    with np.errstate(invalid="ignore"):
        out: F64 = part / whole
    return out


def ratio(numerator: Array, denominator: Array) -> F64:
    """numerator / denominator, NaN (null) where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        out: F64 = numerator / denominator
    out[denominator == 0] = np.nan
    return out
