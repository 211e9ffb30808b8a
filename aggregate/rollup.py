"""The ladder: each interval's rows are merged from the rows of the interval below.

A level holds its children until their window closes, then merges them in one pass; live and replay
go through the same code, so a bar has the same bits however its seconds arrived. At most
15 + 2 + 2 + 5 + 3 + 2 + 2 + 4 + 6 = 41 rows are held per instrument.
"""

from collections.abc import Mapping, Sequence

from aggregate.datasets.base import Dataset
from aggregate.groups import Groups, Rows, concat_rows
from aggregate.intervals import LADDER, Interval


class Ladder:
    """The held rows of one (shard, clock, kind), level by level.

    Held rows are kept in slots, one per merge pass of the level below, so that a snapshot writes
    what is new only. A slot's name is `<interval>/<start of the pass, s>`.
    """

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        self._datasets = {d.name: d for d in datasets}
        self._held: dict[str, dict[int, Rows]] = {level.name: {} for level in LADDER[1:]}
        self._closed = dict.fromkeys(self._held, 0)
        self.changed: dict[str, Rows | None] = {}
        """Slots added (rows) or removed (None) since the owner last cleared this."""

    def advance(self, rows: Rows | None, cut: int) -> list[tuple[Interval, Rows]]:
        """Take newly sealed 1s rows; every window that ends by second `cut` closes.

        Returns (interval, rows) for each interval that has new rows, 1s first.
        """
        out = [] if rows is None else [(LADDER[0], rows)]
        for level in LADDER[1:]:
            if rows is not None:
                self._hold(level, cut, rows)
            bound = cut - cut % level.seconds
            rows = None
            if bound > self._closed[level.name]:
                self._closed[level.name] = bound
                rows = self._close(level, bound)
            if rows is not None:
                out.append((level, rows))
        return out

    def _hold(self, level: Interval, slot: int, rows: Rows) -> None:
        self._held[level.name][slot] = rows
        self.changed[f"{level.name}/{slot}"] = rows

    def _close(self, level: Interval, bound: int) -> Rows | None:
        """Merge the held children that start before `bound`."""
        slots = self._held[level.name]
        ready = []
        for slot, rows in sorted(slots.items()):
            early = rows.start < bound
            if not early.any():
                continue
            del slots[slot]
            self.changed[f"{level.name}/{slot}"] = None
            if early.all():
                ready.append(rows)
            else:
                ready.append(rows.take(early))
                self._hold(level, slot, rows.take(~early))
        return self._merge(level, concat_rows(ready)) if ready else None

    def _merge(self, level: Interval, children: Rows) -> Rows:
        window = children.start - children.start % level.seconds
        groups = Groups(children.code, window)
        parts = {
            name: self._datasets[name].merge(part, groups) for name, part in children.parts.items()
        }
        return Rows(groups.first(children.code), groups.first(window), parts)

    def closed(self) -> dict[str, int]:
        """Per interval, the second up to which its windows have closed."""
        return dict(self._closed)

    def restore(self, slots: Mapping[str, Rows], closed: Mapping[str, int]) -> None:
        for name, rows in sorted(slots.items(), key=lambda item: int(item[0].split("/")[1])):
            interval, slot = name.split("/")
            self._held[interval][int(slot)] = rows
        self._closed.update(closed)

    def rows_held(self) -> int:
        return sum(len(rows) for slots in self._held.values() for rows in slots.values())
