"""The sizes of a partition's records, which Kafka doesn't tell: for retention by size."""

from array import array

from ingest.log.kafka_client import At, KafkaClient

_READ_BYTES = 8 << 20


class RecordSizes:
    """Of one partition, 16 bytes a record; each record is read once."""

    def __init__(self) -> None:
        self._next = 0
        self._offsets = array("q")
        self._sizes = array("q")

    async def keep_from(self, client: KafkaClient, at: At, first: int, max_bytes: int) -> int:
        """The offset from which all records together have at most `max_bytes` of values.

        `first`: the first offset still kept.
        """
        await self._read_on(client, at, first)
        kept, oldest = 0, len(self._offsets)
        while oldest and self._offsets[oldest - 1] >= first:
            kept += self._sizes[oldest - 1]
            if kept > max_bytes:
                break
            oldest -= 1
        return self._offsets[oldest] if oldest < len(self._offsets) else self._next

    async def _read_on(self, client: KafkaClient, at: At, first: int) -> None:
        gone = next((i for i, o in enumerate(self._offsets) if o >= first), len(self._offsets))
        del self._offsets[:gone], self._sizes[:gone]
        self._next = max(self._next, first)
        while True:
            got = (await client.fetch({at: self._next}, _READ_BYTES))[at]
            for record in got.records:
                self._offsets.append(record.offset)
                self._sizes.append(len(record.value or b""))
            if got.next == self._next:
                return
            self._next = got.next
