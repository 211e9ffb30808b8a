"""What a new dataset takes: CONTRIBUTING.md's example as it stands there, and a median's."""

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
from hypothesis import given, settings

from aggregate import snapshot
from aggregate.datasets.base import Column, Dataset, Merge
from aggregate.groups import Groups, Rows
from aggregate.intervals import LADDER, NS
from aggregate.rollup import Ladder
from tests.aggregate import strategies
from tests.aggregate.test_rollup import sorted_ticks

CONTRIBUTING = Path(__file__).parents[3] / "CONTRIBUTING.md"


class MedianQty(Dataset):
    """An order statistic: its partial column holds the values themselves."""

    name = "median_qty"
    kind = "trades"
    partial: ClassVar = {"values": Merge.FIRST}  # a name for the state; `merge` is its own
    about = "The median quantity."
    columns: ClassVar = {"median": Column("Median quantity, base units.")}

    def from_ticks(self, ticks, groups):
        return {"values": joined(np.split(ticks.qty, groups.starts[1:]))}

    def merge(self, partial, groups):
        children = np.split(partial["values"], groups.starts[1:])
        return {"values": joined([np.concatenate(own) for own in children])}

    def finish(self, code, start, partial, interval, memory):
        return {"median": np.array([np.median(own) for own in partial["values"]])}


def joined(arrays):
    out = np.empty(len(arrays), dtype=object)
    out[:] = arrays
    return out


def rolled_up(dataset, ticks):
    """{(interval, code, start): finished row}, with the state written and read between levels."""
    second = ticks.exchange_ts // NS
    groups = Groups(ticks.code, second, ticks.exchange_ts)
    parts = {dataset.name: dataset.from_ticks(ticks, groups)}
    rows = Rows(groups.first(ticks.code), groups.first(second), parts)
    ladder, state, out = Ladder([dataset]), {}, {}
    for cut in (int(second.mean()), int(second.max()) + 1, 1 << 40):
        early = rows.start < cut
        now = rows.take(early) if early.any() else None
        rows = rows.take(~early)
        for interval, closed in ladder.advance(now, cut):
            columns = dataset.finish(
                closed.code, closed.start, closed.parts[dataset.name], interval, None
            )
            for i, key in enumerate(zip(closed.code.tolist(), closed.start.tolist(), strict=True)):
                out[interval, *key] = {name: values[i] for name, values in columns.items()}
        state |= {k: v and snapshot.encode_rows(v) for k, v in ladder.changed.items()}
        closed_until, ladder = ladder.closed(), Ladder([dataset])
        ladder.restore({k: snapshot.decode_rows(v) for k, v in state.items() if v}, closed_until)
    return out


def expected(ticks, formula):
    out = {}
    for interval in LADDER:
        start = ticks.exchange_ts // NS // interval.seconds * interval.seconds
        for key in set(zip(ticks.code.tolist(), start.tolist(), strict=True)):
            own = ticks.take((ticks.code == key[0]) & (start == key[1]))
            out[interval, *key] = formula(own)
    return out


@settings(max_examples=30, deadline=None)
@given(strategies.trades())
def test_a_median_goes_through_the_ladder_and_the_state(trades):
    ticks = sorted_ticks("trades", trades)
    if ticks is not None:
        want = expected(ticks, lambda own: {"median": np.median(own.qty)})
        assert rolled_up(MedianQty(), ticks) == want


@settings(max_examples=30, deadline=None)
@given(strategies.trades())
def test_the_example_of_contributing_works(trades):
    ticks = sorted_ticks("trades", trades)
    if ticks is not None:
        want = expected(
            ticks, lambda own: {"n_trades": own.count.sum(), "largest_qty": own.qty.max()}
        )
        assert rolled_up(example(), ticks) == want


def section():
    [text] = re.findall(r"^## Adding a dataset\n(.*?)^## ", CONTRIBUTING.read_text(), re.M | re.S)
    return text


def example():
    [source] = re.findall(r"```python\n(.*?)```", section(), re.S)
    scope = {}
    exec(source, scope)
    return scope["Sizes"]()


def test_adding_a_dataset_is_shown_in_under_40_lines():
    assert len(section().strip().splitlines()) < 40
