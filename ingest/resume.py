"""What earlier sessions left on the log, so that a restart leaves no unnoticed gap.

The tail of the trades topic is read again through the same checks as live ticks. So the ids that
were there last are known, and a hole that a killed collector had not yet recorded, or not yet
filled, is found again.
"""

from collections.abc import AsyncIterator, Collection

from ingest.continuity import Continuity, continuity
from ingest.fills import FillContinuity
from ingest.gaps import FILLS, IDS, RESTART, Gap
from ingest.instruments import partition_of
from ingest.log import Log, OffsetTrimmed, Record
from ingest.records import (
    COVERAGE,
    GAP,
    OPEN,
    TRADES,
    TRADES_TOPIC,
    BadRecord,
    Coverage,
    GapRecord,
)
from ingest.ticks import MalformedBatch, Trades, decode

CHUNK_RECORDS = 1_000
TAIL_BYTES = 16 << 20
"""Values read at most of a partition, from its end. What symbols traded before is not known: each
has a gap of unknown size up to its next trade. So has each of a venue of which nothing is there:
other venues may have filled the tail since it was collected, or it is new, and nothing bounded
tells which."""
_KINDS = (TRADES, GAP, COVERAGE)


async def resume(
    log: Log, exchange: str, symbols: Collection[str], partitions: int, *, aggregated: bool
) -> Continuity:
    """Checks that go on from the log's tail; its open gaps are due at once.

    With `aggregated` trades (Binance's aggTrade) ids jump where nothing is missing and the log
    doesn't hold the aggregates' numbers: then only the gap over the restart is looked for.
    """
    checks = continuity(exchange)
    opened: dict[tuple[object, ...], Gap] = {}
    ended: list[GapRecord] = []
    before = set[str]()
    for partition in range(partitions):
        wanted = {s for s in symbols if partition_of(exchange, s, partitions) == partition}
        tail, unseen = await _tail(log, exchange, partition, wanted)
        for record in tail:
            if record.headers["type"] == TRADES:
                _check(checks, record)
                continue
            control = _control(record)
            if isinstance(control, Coverage):
                checks.covered(wanted.intersection(control.symbols), control.exchange_from)
            if not isinstance(control, GapRecord):
                continue
            gap = control
            key = (gap.symbol, gap.kind, gap.exchange_ts, gap.exchange_to, gap.local_ts)
            if gap.state == OPEN:
                opened[key] = _gap(gap)
            else:
                opened.pop(key, None)
                ended.append(gap)
        before |= unseen
    checks.covered(before, 0)
    if aggregated or isinstance(checks, FillContinuity):
        checks.due()
    checks.reopen([gap for gap in opened.values() if gap.kind == FILLS])
    if not aggregated:
        for gap in ended:
            if gap.kind == IDS:
                checks.settled(gap.symbol, gap.first_missing or 0, gap.last_missing or 0)
    checks.interrupted(RESTART)
    return checks


def _control(record: Record) -> Coverage | GapRecord | None:
    """What a coverage or gap record says; None if it can't be read."""
    try:
        if record.headers["type"] == COVERAGE:
            return Coverage.decode(record.value)
        return GapRecord.decode(record.value)
    except BadRecord:
        return None


def _check(checks: Continuity, record: Record) -> None:
    try:
        trades = decode(Trades, record.value)
    except MalformedBatch:
        return  # counted by the aggregator; the ids in it are missing
    if len(trades):
        checks.check(trades)


def _gap(gap: GapRecord) -> Gap:
    return Gap(
        symbol=gap.symbol,
        kind=gap.kind,
        first_missing=gap.first_missing,
        last_missing=gap.last_missing,
        missing=gap.missing,
        reason=gap.reason,
        exchange_ts=gap.exchange_ts,
        exchange_to=gap.exchange_to,
        local_ts=gap.local_ts,
    )


async def _tail(
    log: Log, exchange: str, partition: int, wanted: set[str]
) -> tuple[list[Record], set[str]]:
    """The last trades, coverages and gap records of an exchange, in order: back to where every one
    of the wanted symbols has traded, or as far as the bound allows. And the symbols that may have
    traded before that."""
    first, end = await log.bounds(TRADES_TOPIC, partition)
    chunks: list[list[Record]] = []
    missing = set(wanted)
    size = 0
    while end > first and missing and size < TAIL_BYTES:
        start = max(first, end - CHUNK_RECORDS)
        chunk: list[Record] = []
        try:
            async for record in _between(log, partition, start, end):
                size += len(record.value)
                mine = record.headers.get("exchange") == exchange
                if mine and record.headers["type"] in _KINDS:
                    chunk.append(record)
                    missing -= _symbols(record)
        except OffsetTrimmed:
            break  # retention has passed the start of this chunk meanwhile
        chunks.append(chunk)
        end = start
    return [record for chunk in reversed(chunks) for record in chunk], missing if end else set()


async def _between(log: Log, partition: int, start: int, end: int) -> AsyncIterator[Record]:
    while start < end:
        records = await log.read(TRADES_TOPIC, partition, start, max_bytes=1 << 20)
        if not records:
            return
        for record in records:
            if record.offset < end:
                yield record
        start = records[-1].offset + 1


def _symbols(record: Record) -> set[str]:
    if record.headers["type"] != TRADES:
        return set()
    try:
        return set(decode(Trades, record.value).symbols)
    except MalformedBatch:
        return set()
