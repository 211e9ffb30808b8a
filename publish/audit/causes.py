"""Why a published bar is not what the ticks give. Pure.

A bar is explained if the rules that live ran under give it as it is published: then it differs by
what these rules leave out. If they don't, something is wrong.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from aggregate.intervals import EXCHANGE
from ingest.ticks import I64
from publish.audit.accounts import HEALED, LATE, TickAccount
from publish.audit.compare import SCORES, Differences

US = 1_000_000
Mask = npt.NDArray[np.bool_]


class Cause(Enum):
    """In the order in which they are looked for; a bar has one."""

    OTHER = "other"
    """Live's rules give something else too: a defect."""
    TOXICITY = "toxicity"
    """Only flow_toxicity_score differs, which follows from earlier bars of the month."""
    LATE = "late"
    """A tick came more than the lateness limit after its exchange second."""
    HEALED = "healed"
    """A trade that was missing was had from the venue's history, after that limit."""
    LAGGING = "lagging"
    """Ticks of an evicted collector, for seconds that were sealed without it."""


CAUSES = tuple(Cause)


@dataclass(frozen=True, slots=True)
class Explained:
    """The bars of a series' day that differ: `start` (µs) and `cause`, an index of `CAUSES`."""

    start: I64
    cause: npt.NDArray[np.int8]

    def count(self) -> dict[Cause, int]:
        found = np.bincount(self.cause, minlength=len(CAUSES)).tolist()
        return {cause: n for cause, n in zip(CAUSES, found, strict=True) if n}


def explain(
    found: Differences,
    known: Mask,
    seconds: int,
    clock: str,
    kind: str,
    ticks: TickAccount,
    *,
    lagging: bool,
) -> Explained:
    """The cause of each difference (n,).

    `known`: those published as live's rules give them, or rewritten since (n,): then by what the
    archive had at that time. `seconds`: the interval's. `lagging`: whether live's rules left ticks
    out as `source_lagging`.
    """
    late = np.zeros(len(found), bool)
    healed = late
    if clock == EXCHANGE:
        late = _touched(found.start, seconds, ticks.late_seconds(kind, LATE))
        healed = _touched(found.start, seconds, ticks.late_seconds(kind, HEALED))
    conditions = [
        (~known, Cause.OTHER),
        (found.how == SCORES, Cause.TOXICITY),
        (late, Cause.LATE),
        (healed, Cause.HEALED),
        (np.full(len(found), lagging), Cause.LAGGING),
    ]
    codes = [CAUSES.index(cause) for _, cause in conditions]
    other = CAUSES.index(Cause.OTHER)
    cause = np.select([mask for mask, _ in conditions], codes, other).astype(np.int8)
    return Explained(found.start, cause)


def _touched(start: I64, seconds: int, of: I64) -> Mask:
    """Which windows [start (µs), + seconds) hold one of the seconds `of`, which rise."""
    first = np.searchsorted(of, start // US)
    after = np.searchsorted(of, start // US + seconds)
    touched: Mask = after > first
    return touched
