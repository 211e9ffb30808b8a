"""Records of one source, numbered as readers expect them: by topic and partition, from 0 on."""

from collections import Counter

from ingest import records
from ingest.log import NewRecord
from ingest.records import TICK_TOPICS, Source


class Numbered:
    """Makes the records of a source. They must be appended in the order in which they are made."""

    def __init__(self, source: Source, partitions: int) -> None:
        """`partitions`: of each tick topic."""
        self.source = source
        self._partitions = partitions
        self._seq: Counter[tuple[str, int]] = Counter()

    def record(self, topic: str, partition: int, kind: str, value: bytes, **more: str) -> NewRecord:
        """`more`: headers beside those of the source."""
        seq = self._seq[topic, partition]
        self._seq[topic, partition] = seq + 1
        return NewRecord(topic, partition, value, self.source.headers(kind, seq, **more))

    def marks(self, kind: str, local_ts: int) -> list[NewRecord]:
        """A control record of that time (ns) in every partition of the tick topics."""
        stamp = {records.LOCAL_TS: str(local_ts)}
        return [
            self.record(topic, partition, kind, b"", **stamp)
            for topic in TICK_TOPICS
            for partition in range(self._partitions)
        ]
