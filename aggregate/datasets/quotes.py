"""What the top-of-book datasets share: the one-sided rule and averages over quote updates.

All last values of a window come from its last two-sided update, so that they belong to one
instant; without one, columns of both sides are null and each side's own columns take that side's
last. Averages skip the updates for which they are undefined (DATASETS.md, l1_imbalance).
"""

from collections.abc import Mapping

import numpy as np

from aggregate.datasets.base import Column
from aggregate.groups import Array, Groups, Partial
from ingest.ticks import F64, I64, Quotes


def with_averages(figures: Mapping[str, str]) -> dict[str, Column]:
    """The figures' last values, then their averages; `figures`: what each is."""
    last = {name: Column(f"{what}; at the last update.") for name, what in figures.items()}
    mean = {f"{name}_avg": Column(f"{what}; mean of updates.") for name, what in figures.items()}
    return last | mean


def last_defined(groups: Groups, defined: Array, *values: Array) -> list[Array]:
    """Each of `values` (n,) at each group's last row where `defined` (n,); NaN (m,) without one."""
    if defined.all():
        return [groups.last(v) for v in values]
    index = groups.last_index(defined)
    return [np.where(index >= 0, v[index], np.nan) for v in values]


def last_two_sided(ticks: Quotes, groups: Groups) -> Partial:
    """bid_price, bid_qty, ask_price, ask_qty (m,) of each group's last two-sided update."""
    names = ("bid_price", "bid_qty", "ask_price", "ask_qty")
    both = ~np.isnan(ticks.bid_qty + ticks.ask_qty)
    values = last_defined(groups, both, *(getattr(ticks, name) for name in names))
    return dict(zip(names, values, strict=True))


def own_side(two_sided: Array, side: Array) -> Array:
    """A side's own column: of the last two-sided update, without one of the side's last."""
    return np.where(np.isnan(two_sided), side, two_sided)


def sum_and_count(groups: Groups, values: F64) -> tuple[F64, I64]:
    """Σ and number (m,) of the values (n,) that are not NaN."""
    undefined = np.isnan(values)
    if not undefined.any():
        return groups.sum(values), groups.ends - groups.starts
    return groups.sum(np.where(undefined, 0.0, values)), groups.count(~undefined)
