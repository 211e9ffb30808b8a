"""`perpflow tail`: what is on a topic of the log, one JSON object a tick, bar or control record.

Every object starts with the record's topic, partition, offset, type and who wrote it; times are
RFC 3339 in UTC. Records of one partition come in their order; partitions have no order between
them.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Literal

import numpy as np
import orjson
import pyarrow as pa

from ingest.errors import UserError
from ingest.log import Log, Record, TopicPartition
from ingest.records import BARS, QUOTES, TRADES
from publish.log import open_log
from publish.settings import LogSettings, parse_duration

_READ_BYTES = 1 << 20
_BATCHES = (TRADES, QUOTES, BARS)


@dataclass(frozen=True, slots=True)
class Since:
    """From the first record that was appended at that time (ns, by the log's clock) or later."""

    ns: int


Start = Literal["start", "end"] | int | Since
"""Where to begin in every partition; a number is an offset."""


def parse_start(text: str, now_ns: int) -> Start:
    """`start`, `end`, an offset, an RFC 3339 time, or a duration before now such as `-10m`.

    Raises ValueError saying what is allowed.
    """
    if text == "start":
        return "start"
    if text == "end":
        return "end"
    if text.isdecimal():
        return int(text)
    try:
        if text.startswith("-"):
            return Since(now_ns - parse_duration(text[1:]))
        return Since(_instant(text))
    except ValueError as error:
        raise ValueError(
            "should be start, end, an offset, a time like 2026-11-21T10:00:00Z,"
            f" or -10m for ten minutes ago: {error}"
        ) from None


def _instant(text: str) -> int:
    """Nanoseconds of an RFC 3339 time; one without an offset from UTC would be a guess."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f'write "{text}Z" for UTC')
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (since // timedelta(microseconds=1)) * 1000


@dataclass(frozen=True, slots=True)
class TailOptions:
    """`partition`: one, or None for all of them.

    `limit`: stop after that many lines. `follow`: wait for more at the end.
    """

    topic: str
    start: Start = "start"
    partition: int | None = None
    follow: bool = False
    limit: int | None = None


class _Enough(Exception):
    """The limit of lines is reached."""


async def tail_log(settings: LogSettings, options: TailOptions, out: BinaryIO) -> None:
    """`tail` of the log of those settings; a reader that goes away (`| head`) ends it quietly."""
    if settings.kafka is None and not settings.path.exists():
        raise UserError(f"{settings.path}: no such log; say which with --set log.path=FILE")
    log = open_log(settings)
    try:
        await tail(log, options, out)
        out.flush()
    except BrokenPipeError:
        # What is still buffered would be written again at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
    finally:
        await log.close()


async def tail(log: Log, options: TailOptions, out: BinaryIO) -> None:
    """Write the topic's records as JSON lines, to the end as it is now, or on and on.

    Raises `LogError` for an unknown topic or an offset that retention has removed, `UserError`
    for a partition that doesn't exist.
    """
    ends = await _ends(log, options)
    positions = await _starts(log, options, ends)
    left = options.limit

    def emit(line: bytes) -> None:
        nonlocal left
        out.write(line)
        if left is not None:
            left -= 1
            if left == 0:
                raise _Enough

    try:
        await _drain(log, positions, ends, emit)
        while options.follow:
            out.flush()
            if await log.wait(positions, timeout=5.0):
                await _drain(log, positions, await _ends(log, options), emit)
    except _Enough:
        return


async def _ends(log: Log, options: TailOptions) -> dict[TopicPartition, int]:
    """The next offset to be written of every partition asked for."""
    count = await log.partitions(options.topic)
    if options.partition is not None and options.partition >= count:
        raise UserError(
            f"{options.topic} has no partition {options.partition}: they are 0 to {count - 1}"
        )
    chosen = range(count) if options.partition is None else [options.partition]
    return {(options.topic, p): (await log.bounds(options.topic, p))[1] for p in chosen}


async def _starts(
    log: Log, options: TailOptions, ends: dict[TopicPartition, int]
) -> dict[TopicPartition, int]:
    if options.start == "end":
        return dict(ends)
    if options.start == "start":
        return {at: (await log.bounds(*at))[0] for at in ends}
    if isinstance(options.start, Since):
        return {at: await log.offset_at(*at, options.start.ns) for at in ends}
    return dict.fromkeys(ends, options.start)


async def _drain(
    log: Log,
    positions: dict[TopicPartition, int],
    ends: dict[TopicPartition, int],
    emit: Callable[[bytes], None],
) -> None:
    """Emit what lies before `ends`, a chunk of each partition in turn; moves `positions`."""
    pending = [at for at in ends if positions[at] < ends[at]]
    while pending:
        for at in pending:
            records = await log.read(*at, positions[at], max_bytes=_READ_BYTES)
            for record in records:
                for line in lines(record):
                    emit(line)
                positions[at] = record.offset + 1
            if not records:
                positions[at] = ends[at]
        pending = [at for at in pending if positions[at] < ends[at]]


def lines(record: Record) -> Iterator[bytes]:
    """The record's JSON lines, each ending in a newline: one a row, or one for a control record."""
    head: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        **{name: value for name, value in record.headers.items() if name != "schema"},
    }
    if "local_ts" in head:
        head["local_ts"] = _rfc3339(np.array([int(head["local_ts"])], "datetime64[ns]"))[0]
    try:
        batch = record.headers.get("type") in _BATCHES
        body = _rows(record.value) if batch else _control(record.value)
    except (pa.ArrowInvalid, OSError, orjson.JSONDecodeError) as error:
        body = iter([{"malformed": f"{len(record.value)} bytes: {error}"}])
    for row in body:
        yield orjson.dumps({**head, **row}, option=orjson.OPT_APPEND_NEWLINE)


def _control(value: bytes) -> Iterator[dict[str, Any]]:
    """A control record's value: JSON, or nothing."""
    return iter([{"value": orjson.loads(value)} if value else {}])


def _rows(value: bytes) -> Iterator[dict[str, Any]]:
    table = pa.ipc.open_stream(value).read_all()
    columns = [_values(table.column(name)) for name in table.column_names]
    return (dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True))


def _values(column: pa.ChunkedArray) -> list[Any]:
    if not pa.types.is_timestamp(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    unit = column.type.unit
    return _rfc3339(column.cast(pa.int64()).to_numpy().view(f"datetime64[{unit}]"))


def _rfc3339(times: Any) -> list[str]:
    """UTC text with every digit of the unit; datetime objects would lose nanoseconds."""
    return [f"{text}Z" for text in np.datetime_as_string(times).tolist()]
