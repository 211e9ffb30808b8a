"""Records on disk that the log has not taken yet: a queue of append-only segment files.

A segment is a sequence of frames: length and crc32 of the body (two little-endian u32), then the
body: the record's topic, partition and headers as a line of JSON, then its value. A record is
handed to the operating system before `write` returns, so kill -9 loses none; `sync`, which the
appender calls about once a second, makes it safe from a power failure too. A frame cut short by a
kill is no record and is cut off at the next open.

What the log took is forgotten by whole segments, so after a kill up to one segment is appended
again; its batches carry the same (collector, session, seq) and are skipped downstream.
"""

import fcntl
import os
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

import orjson
import structlog
from msgspec.json import Decoder

from ingest.errors import UserError
from ingest.log import NewRecord

SEGMENT_BYTES = 8 << 20
_HEAD = Struct("<II")
_SUFFIX = ".spool"
_head = Decoder(tuple[str, int, dict[str, str]]).decode

_log = structlog.get_logger(__name__)


class SpoolError(UserError):
    """The spool's directory can't be used; the message names it and the reason."""


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int
    records: int


class Spool:
    """A FIFO of records in `directory`, of at most about `max_bytes`; one process owns it.

    Opening it finds what an earlier run left. `write` at one end, `read` and `forget` at the
    other: `read` returns the oldest records without removing them. Not thread-safe.
    """

    def __init__(
        self, directory: Path, max_bytes: int, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        """Raises SpoolError if the directory can't be used or another process uses it."""
        self.directory = directory
        self.max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._segments: deque[_Segment] = deque()
        self._out: int | None = None
        self._read_offset = 0
        self._read_records = 0
        self.damaged = 0
        """Bytes of damaged frames found so far, behind which a segment could not be read."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover()
        except BlockingIOError:
            os.close(self._lock)
            raise SpoolError(
                f"{directory} is in use: another collector with this id is running"
            ) from None
        except OSError as error:
            raise SpoolError(f"can't spool to {directory}: {error}") from error

    def __len__(self) -> int:
        """Records that are not forgotten."""
        # Another thread may just be dropping a segment that was read: never less than none.
        return max(0, sum(segment.records for segment in self._segments) - self._read_records)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self._segments)

    @property
    def full(self) -> bool:
        return self.size >= self.max_bytes

    def write(self, records: Sequence[NewRecord]) -> int:
        """Add as many of the records, in order, as there is room for; returns how many.

        Raises OSError when the disk refuses; then none of the records was added.
        """
        room = self.max_bytes - self.size
        frames: list[bytes] = []
        for record in records:
            frame = _frame(record)
            # An empty spool takes a record of any size: else it could never be let go.
            if len(frame) > room and (frames or len(self)):
                break
            room -= len(frame)
            frames.append(frame)
        if frames:
            self._append(b"".join(frames), len(frames))
        return len(frames)

    def read(self, max_bytes: int) -> list[NewRecord]:
        """The oldest records of one segment: `max_bytes` of frames at most, but at least one.

        A segment whose rest is damaged is told and left out.
        """
        while self._segments:
            segment = self._segments[0]
            with segment.path.open("rb") as file:
                file.seek(self._read_offset)
                data = file.read(segment.size - self._read_offset)
            found: list[NewRecord] = []
            used = 0
            for record, length in _records(data):
                if found and used + length > max_bytes:
                    break
                found.append(record)
                used += length
            if found:
                return found
            self._damaged(segment, len(data))
        return []

    def forget(self, count: int) -> None:
        """The log has the oldest `count` records; whole segments of them are removed."""
        while count:
            segment = self._segments[0]
            here = min(count, segment.records - self._read_records)
            self._skip(segment, here)
            count -= here
            if self._read_records == segment.records:
                self._remove_first()

    def sync(self) -> None:
        """Make what was written safe from a power failure."""
        if self._out is not None:
            os.fsync(self._out)

    def close(self) -> None:
        """Idempotent. What is left stays on disk for the next start."""
        if self._out is not None:
            self.sync()
            os.close(self._out)
            self._out = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _append(self, data: bytes, records: int) -> None:
        if self._out is None or self._segments[-1].size >= self._segment_bytes:
            self._open_segment()
        assert self._out is not None
        segment = self._segments[-1]
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._out, view) :]
        except OSError:
            os.ftruncate(self._out, segment.size)  # no half of a batch stays
            raise
        segment.size += len(data)
        segment.records += records

    def _open_segment(self) -> None:
        number = int(self._segments[-1].path.stem) + 1 if self._segments else 1
        path = self.directory / f"{number:012}{_SUFFIX}"
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o644)
        if self._out is not None:
            os.fsync(self._out)  # `sync` only reaches the one that is open
            os.close(self._out)
        self._out = out
        _sync_directory(self.directory)
        self._segments.append(_Segment(path, 0, 0))

    def _skip(self, segment: _Segment, count: int) -> None:
        with segment.path.open("rb") as file:
            for _ in range(count):
                file.seek(self._read_offset)
                length, _crc = _HEAD.unpack(file.read(_HEAD.size))
                self._read_offset += _HEAD.size + length
        self._read_records += count

    def _remove_first(self) -> None:
        segment = self._segments.popleft()
        if not self._segments and self._out is not None:
            os.close(self._out)
            self._out = None
        segment.path.unlink()
        self._read_offset = self._read_records = 0

    def _damaged(self, segment: _Segment, lost: int) -> None:
        """Leave out the rest of the first segment, keeping its file for a look."""
        self.damaged += lost
        kept = segment.path.with_suffix(".damaged")
        segment.path.rename(kept)
        _log.error("spool damaged, the rest of a segment is lost", path=str(kept), bytes=lost)
        self._segments.popleft()
        if not self._segments and self._out is not None:
            os.close(self._out)
            self._out = None
        self._read_offset = self._read_records = 0

    def _recover(self) -> None:
        for path in sorted(self.directory.glob(f"*{_SUFFIX}")):
            data = path.read_bytes()
            lengths = [length for _, length in _frames(data)]
            whole = sum(lengths)
            if whole < len(data):
                self._cut(path, data, whole)
            if whole:
                self._segments.append(_Segment(path, whole, len(lengths)))
            else:
                path.unlink()

    def _cut(self, path: Path, data: bytes, whole: int) -> None:
        """Cut a segment off behind its whole frames, and say so."""
        lost = len(data) - whole
        if _cut_short(data, whole):  # what a kill leaves
            _log.warning("a record cut short by a kill is left out", path=str(path), bytes=lost)
        else:
            self.damaged += lost
            path.with_suffix(".damaged").write_bytes(data)
            _log.error("spool damaged, the rest of a segment is lost", path=str(path), bytes=lost)
        os.truncate(path, whole)


def _sync_directory(directory: Path) -> None:
    """A new file is only safe from a power failure with its name."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cut_short(data: bytes, at: int) -> bool:
    """Whether the frame at `at` ends behind the data."""
    if len(data) - at < _HEAD.size:
        return True
    length, _ = _HEAD.unpack_from(data, at)
    return bool(at + _HEAD.size + length > len(data))


def _frame(record: NewRecord) -> bytes:
    head = orjson.dumps([record.topic, record.partition, dict(record.headers)])
    body = head + b"\n" + record.value
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def _frames(data: bytes) -> Iterator[tuple[bytes, int]]:
    """(body, bytes of the frame) of the whole, undamaged frames up to the first that isn't."""
    at = 0
    while len(data) - at >= _HEAD.size:
        length, crc = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(body) < length or zlib.crc32(body) != crc or not length:
            return
        yield body, _HEAD.size + length
        at += _HEAD.size + length


def _records(data: bytes) -> Iterator[tuple[NewRecord, int]]:
    """(record, bytes of its frame) of the whole frames up to the first that holds none."""
    for body, length in _frames(data):
        head, _, value = body.partition(b"\n")
        try:
            topic, partition, headers = _head(head)
        except (ValueError, RecursionError):
            return
        yield NewRecord(topic, partition, value, headers), length
