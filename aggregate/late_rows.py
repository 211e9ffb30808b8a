"""Which rows of a session came too late, by symbol: ranges of arrival stamps and row numbers. Pure.

A session's rows rise, so what it brought between two seals lies in one range of a symbol's rows.
"""

from collections.abc import Mapping

import numpy as np

from aggregate.intervals import EXCHANGE, TRUE
from ingest.records import Lagging
from ingest.ticks import Quotes, Trades


class LateRows:
    """Of one session and kind, between two seals."""

    def __init__(self) -> None:
        self._spans: dict[str, tuple[int, int, int, int]] = {}

    def add(self, ticks: Trades | Quotes) -> None:
        """A record of which ticks came too late."""
        for code in np.unique(ticks.code).tolist():
            of = ticks.code == code
            local, row = ticks.local_ts[of], ticks.row[of]
            found = int(local.min()), int(local.max()), int(row.min()), int(row.max())
            known = self._spans.get(ticks.symbols[code], found)
            self._spans[ticks.symbols[code]] = (
                *(min(known[0], found[0]), max(known[1], found[1])),
                *(min(known[2], found[2]), max(known[3], found[3])),
            )

    def record(self, kind: str, sealed: Mapping[str, int]) -> Lagging:
        """`sealed`: the second before which each clock was sealed when they came."""
        local_from, local_to, row_from, row_to = zip(*self._spans.values(), strict=True)
        return Lagging(
            kind,
            list(self._spans),
            local_from,
            local_to,
            row_from,
            row_to,
            sealed_exchange=sealed[EXCHANGE],
            sealed_true=sealed[TRUE],
        )
