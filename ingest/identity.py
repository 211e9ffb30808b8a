"""One process an identity: who collects a venue under an id that is in use is refused.

A later session of a collector ends its earlier one (`ingest.records`), so two that ran at once
would end each other. On one machine the spool's lock tells them apart; here the log does: whoever
is alive goes on promising in every partition.
"""

import time

from ingest.errors import UserError
from ingest.log import Log, OffsetTrimmed, Record
from ingest.records import LOCAL_TS, PUNCTUATION, SESSION_END, TRADES_TOPIC, Source

RECENT_S = 10.0
"""An earlier session whose last promise is older is not looked at further."""
PROMISES = 6
"""Promises that a living session would make while it is waited for one."""


class IdentityInUse(UserError):
    """Another process collects the venue under this id."""


async def nobody_else(log: Log, source: Source, punctuation_ms: float) -> None:
    """Return once it is sure that no other session of this collector goes on.

    That is at once unless the last one ended without saying so (a kill) a moment ago; then it takes
    some promises' time. Raises `IdentityInUse`, and `LogError`.
    """
    earlier = await _last(log, source)
    if earlier is None:
        return
    at = earlier.offset + 1
    deadline = time.monotonic() + PROMISES * punctuation_ms / 1e3
    while (left := deadline - time.monotonic()) > 0:
        await log.wait({(TRADES_TOPIC, 0): at}, left)
        for record in await log.read(TRADES_TOPIC, 0, at):
            at = record.offset + 1
            if _mine(record, source) and record.headers["type"] == PUNCTUATION:
                raise IdentityInUse(
                    f"another process collects {source.exchange} as {source.collector!r}, its last"
                    f" promise is of {record.headers[LOCAL_TS]}: give this one its own"
                    " ingest.collector, or stop the other"
                )


async def _last(log: Log, source: Source) -> Record | None:
    """The last recent promise of an earlier session that has not ended."""
    at = await log.offset_at(TRADES_TOPIC, 0, time.time_ns() - round(RECENT_S * 1e9))
    found = None
    while True:
        try:
            records = await log.read(TRADES_TOPIC, 0, at)
        except OffsetTrimmed:
            at, _ = await log.bounds(TRADES_TOPIC, 0)
            continue
        if not records:
            return found
        for record in records:
            if _mine(record, source) and record.headers["type"] in (PUNCTUATION, SESSION_END):
                found = record if record.headers["type"] == PUNCTUATION else None
        at = records[-1].offset + 1


def _mine(record: Record, source: Source) -> bool:
    names = ("exchange", "shard", "collector")
    return all(record.headers.get(name) == getattr(source, name) for name in names)
