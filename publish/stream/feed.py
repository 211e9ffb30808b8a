"""Bars from the log to the hub, from now on; a little of what was there before for snapshots."""

import asyncio
from collections.abc import Iterator

import orjson
import pyarrow as pa
import structlog

from aggregate.bars import read_table
from aggregate.intervals import TRUE
from ingest.log import Log, LogError, Record, TopicPartition
from ingest.log.reading import read_kept
from ingest.records import BARS, BARS_TOPIC
from ingest.trouble import Trouble
from publish.stream.hub import Hub, Row

WARM_UP = 500
"""Records of each partition that are read back at the start, for the first snapshots."""
_WAIT_S = 5.0
_RETRY_S = 1.0

_log = structlog.get_logger(__name__)


class Feed:
    """Reads the bars topic and publishes the rows of the true clock."""

    def __init__(self, log: Log, hub: Hub) -> None:
        self._log = log
        self._hub = hub
        self._positions: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}

    async def run(self) -> None:
        """Follow the topic until cancelled; a log that fails is read on when it is back.

        Bars that were committed meanwhile are sent then, those that retention took are skipped.
        """
        trouble = Trouble(_log, "the stream can't read the log", "the stream reads the log again")
        while True:
            try:
                if not self._positions:
                    await self._start()
                if await self._log.wait(self._positions, _WAIT_S):
                    await self.step()
                trouble.over()
            except LogError as error:
                trouble.failed(str(error))
                await asyncio.sleep(_RETRY_S)

    async def _start(self) -> None:
        for partition in range(await self._log.partitions(BARS_TOPIC)):
            first, end = await self._log.bounds(BARS_TOPIC, partition)
            at = (BARS_TOPIC, partition)
            self._ends[at] = end
            self._positions[at] = max(first, end - WARM_UP)

    async def step(self) -> None:
        """Publish what each partition has next."""
        for at, position in list(self._positions.items()):
            records, lost = await read_kept(self._log, *at, position)
            self._positions[at] = position + lost
            for record in records:
                if record.headers.get("type") == BARS and record.headers.get("clock") == TRUE:
                    self._publish(record, live=record.offset >= self._ends[at])
            if records:
                self._positions[at] = records[-1].offset + 1

    def _publish(self, record: Record, *, live: bool) -> None:
        headers = record.headers
        try:
            channel = f"{headers['dataset']}.{headers['exchange']}.{headers['interval']}"
            rows = list(_rows(record.value, headers["interval"]))
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            _log.error("record left out of the stream", offset=record.offset, problem=str(error))
            return
        self._hub.publish(channel, rows, live=live)


def _rows(value: bytes, interval: str) -> Iterator[Row]:
    table = read_table(value)
    symbols = table["symbol"].to_pylist()
    times = table["time"].cast(pa.int64()).to_pylist()
    names = table.column_names[2:]
    columns = [table[name].to_pylist() for name in names]
    for symbol, time, *values in zip(symbols, times, *columns, strict=True):
        row = {"symbol": symbol, "interval": interval, "time": time}
        yield Row(symbol, orjson.dumps(row | dict(zip(names, values, strict=True))))
