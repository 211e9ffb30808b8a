"""The ordered log: one contract, two implementations (`sqlite.py` embedded, `kafka.py` production).

Topics are split in partitions; a partition is a sequence of records with rising offsets in the
order they were appended. Producers append; one owner per (group, partition) reads, and commits what
it emits, what it still holds and how far it has read in one atomic step.

The contract, which `tests/ingest/test_log_contract*.py` run on every implementation:

- `append` is all or nothing, and keeps the order of its records within each partition. (On Kafka
  a producer that dies inside an append may leave it in some partitions and not in others.)
- Offsets in a partition rise and are never reused, also after retention removed records. They may
  have holes: continue at the last record's offset + 1, and count records, not offsets.
- `acquire` fences: a `commit` with an older ownership of the same (group, partition) raises
  `Fenced` and changes nothing. Commit through the `Log` that acquired.
- `commit` makes output records, state changes and offsets durable together or not at all. Who
  committed reads it at once, other clients soon.
- `retain` removes whole records from the front of a partition, never one that a group which has
  committed offsets for that partition has not read.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ingest.errors import UserError

TopicPartition = tuple[str, int]


class LogError(UserError):
    """A log operation failed; the message names the log, the topic and the reason."""


class TopicMismatch(LogError):
    """A topic exists with another number of partitions than asked for."""


class Fenced(LogError):
    """A newer owner has taken this (group, partition): stop writing it at once."""


class OffsetTrimmed(LogError):
    """The offset asked for has been removed by retention."""


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to append. `headers` are short text values; `value` is opaque bytes."""

    topic: str
    partition: int
    value: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Record:
    """A record as read. `appended_ns` is the log's wall clock (ns) and orders nothing."""

    topic: str
    partition: int
    offset: int
    appended_ns: int
    headers: Mapping[str, str]
    value: bytes


@dataclass(frozen=True, slots=True)
class Ownership:
    """Proof of owning (group, partition), with what the last owner left committed there."""

    group: str
    partition: int
    epoch: int
    state: Mapping[str, bytes] = field(default_factory=dict)
    offsets: Mapping[TopicPartition, int] = field(default_factory=dict)


class Log(ABC):
    """The ordered log; see the module's docstring for the contract."""

    @abstractmethod
    async def create(self, topics: Mapping[str, int]) -> None:
        """Create each topic with that many partitions, or check that it has them.

        Raises `TopicMismatch` when a topic exists with another count.
        """

    @abstractmethod
    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises `LogError` for an unknown topic."""

    @abstractmethod
    async def append(self, records: Sequence[NewRecord]) -> None:
        """Append the records, all or nothing, in order; durable when it returns."""

    @abstractmethod
    async def read(
        self, topic: str, partition: int, offset: int, *, max_bytes: int = 8 << 20
    ) -> list[Record]:
        """The records from `offset` on, about `max_bytes` of values at most, [] at the end.

        At least one record is returned when there is one. Raises `OffsetTrimmed`.
        """

    @abstractmethod
    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """(first offset still kept, next offset to be written)."""

    @abstractmethod
    async def offset_at(self, topic: str, partition: int, time_ns: int) -> int:
        """The offset from which to read for all that was appended at `time_ns` or later.

        By the records' `appended_ns`; the next offset to be written if there is no such record.
        """

    @abstractmethod
    async def wait(self, positions: Mapping[TopicPartition, int], timeout: float) -> bool:
        """Wait until a partition has a record at or after its position, or `timeout` seconds.

        Returns whether there is one.
        """

    @abstractmethod
    async def acquire(self, group: str, partition: int) -> Ownership:
        """Become the owner of (group, partition), fencing the one before."""

    @abstractmethod
    async def commit(
        self,
        owner: Ownership,
        records: Sequence[NewRecord] = (),
        state: Mapping[str, bytes | None] | None = None,
        offsets: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Append `records`, upsert `state` (None deletes a key) and `offsets`, atomically.

        Raises `Fenced` if `owner` is no longer the newest. After a `LogError` acquire again.
        """

    @abstractmethod
    async def release(self, owner: Ownership) -> None:
        """Give the ownership up: a later commit with it raises `Fenced`. Raises nothing."""

    @abstractmethod
    async def committed(self, group: str) -> dict[TopicPartition, int]:
        """The offsets a group has committed, without owning anything (for lag and tests)."""

    @abstractmethod
    async def retain(
        self, topic: str, *, max_age_s: float | None = None, max_bytes: int | None = None
    ) -> int:
        """Remove old records of every partition of a topic; returns how many.

        A record goes if it is older than `max_age_s`, or if the partition's values exceed
        `max_bytes` with it, unless a group with committed offsets there still needs it.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release the files or connections. Idempotent."""
