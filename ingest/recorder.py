"""Recording frames: every websocket message as it arrived, to disk.

A recording is gzip, one line per frame, `<local ns> <payload>`. Each opening of a file appends a
gzip member that starts with a header line, `<ns> {"perpflow":"recording",…}`; another follows when
instruments are listed or change, and a line `<ns> {"perpflow":"coverage",…}` for every coverage
that goes to the log, so that a replay has what live had. Nothing is ever
truncated: after a kill -9 the last member may end in the middle of a line, and the next one
follows it. `ingest.recording` reads them.
"""

import contextlib
import fcntl
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from ingest.instruments import Instrument
from ingest.recording import (
    MEMBER,
    ReadReport,
    RecordingError,
    RecordingHeader,
    coverage_line,
    read_chunks,
    read_frames,
    read_header,
)
from ingest.records import Coverage
from ingest.venues.common import Frame

__all__ = [
    "ReadReport",
    "Recorder",
    "RecordingError",
    "RecordingFile",
    "RecordingHeader",
    "read_chunks",
    "read_frames",
    "read_header",
]

_LEVEL = 1  # makes it about 6x smaller; higher levels cost more CPU than parsing the frames
_NS_PER_HOUR = 3_600_000_000_000


class RecordingFile:
    """One file being appended to; a context manager that closes it.

    Every method raises `RecordingError` when the file can't be opened or written, or when another
    process records into it. A failed write closes it: what was not flushed may be lost.
    """

    def __init__(self, path: Path | str, header: RecordingHeader) -> None:
        self.path = Path(path)
        try:
            self._file = open(self.path, "ab")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise RecordingError(f"can't open the recording {self.path}: {error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            message = f"{self.path} is being recorded by another process: use another directory"
            raise RecordingError(message) from error
        self.size = self._file.tell()
        """Bytes of the file, compressed."""
        self._deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._crc = self._length = 0
        self._append(MEMBER)
        self.write_header(header)

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write_header(self, header: RecordingHeader) -> None:
        """Append a header line; it holds from here on in place of the one before."""
        self.write([(header.local_from, header.encode())])
        self.flush()

    def write_coverage(self, coverage: Coverage) -> None:
        """Append from when instruments are covered."""
        self.write([(coverage.local_from, coverage_line(coverage))])
        self.flush()

    def write(self, frames: Iterable[Frame]) -> None:
        """Append frames, in arrival order."""
        # A line break in JSON is white space between tokens, never part of a value.
        lines = [
            b"%d %b\n" % (ns, p if b"\n" not in p else p.replace(b"\n", b" ")) for ns, p in frames
        ]
        text = b"".join(lines)
        self._crc = zlib.crc32(text, self._crc)
        self._length += len(text)
        self._append(self._deflate.compress(text))

    def flush(self) -> None:
        """Make everything written so far safe from kill -9 and readable."""
        self._append(self._deflate.flush(zlib.Z_SYNC_FLUSH), flush=True)

    def close(self) -> None:
        """Finish the member. Idempotent."""
        if self._file.closed:
            return
        crc, length = (n.to_bytes(4, "little") for n in (self._crc, self._length & 0xFFFFFFFF))
        self._append(self._deflate.flush(zlib.Z_FINISH) + crc + length, flush=True)
        self._file.close()

    def _append(self, data: bytes, flush: bool = False) -> None:
        try:
            self._file.write(data)
            if flush:
                self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # closing tries the failed write again
                self._file.close()
            raise RecordingError(f"can't write the recording {self.path}: {error}") from error
        self.size += len(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Recorder:
    """A session's frames in files of a directory: `<exchange>-<UTC hour>[.<n>].gz`.

    A new file begins every `rotate_hours` of arrival time and when one has `rotate_bytes`
    (compressed). A restarted recorder appends to the newest file of its hour. A `RecordingError`
    is raised as it happens; the next write tries again with a new member.
    """

    def __init__(
        self,
        directory: Path | str,
        header: RecordingHeader,
        *,
        rotate_bytes: int = 256 << 20,
        rotate_hours: int = 1,
    ) -> None:
        """Makes the directory. Raises `RecordingError` if it can't."""
        self.directory = Path(directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"can't make the recording directory {self.directory}: {error}"
            raise RecordingError(message) from error
        self._header = header
        self._rotate_bytes = rotate_bytes
        self._rotate_ns = rotate_hours * _NS_PER_HOUR
        self._file: RecordingFile | None = None
        self._span = -1

    def covered(self, coverage: Coverage) -> None:
        """Write down from when instruments are covered."""
        symbols = set(coverage.symbols)
        natives = [i.native for i in self._header.instruments if i.symbol in symbols]
        covered = dict.fromkeys([*(self._header.covered or ()), *natives])
        self._header = replace(self._header, covered=tuple(covered))
        if self._file is not None and not self._file.closed:
            self._file.write_coverage(coverage)

    def changed(self, instruments: Sequence[Instrument], gone: Collection[str]) -> None:
        """From here on these instruments hold; the native ids `gone` are not covered any more."""
        covered = tuple(n for n in self._header.covered or () if n not in gone)
        self._header = replace(self._header, instruments=tuple(instruments), covered=covered)
        if self._file is not None and not self._file.closed:
            # What is covered has been said.
            self._file.write_header(replace(self._header, covered=()))

    def write(self, frames: Sequence[Frame]) -> None:
        """Append frames, in arrival order; those of one call go into one file."""
        if frames:
            self._file_at(frames[0][0]).write(frames)

    def flush(self) -> None:
        """Make everything written so far safe from kill -9; call it about once a second."""
        if self._file is not None and not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """Finish the current file. Idempotent."""
        if self._file is not None:
            self._file.close()

    def _file_at(self, ns: int) -> RecordingFile:
        """The file for frames from `ns` on, opened or rotated as needed."""
        span = ns // self._rotate_ns
        file = self._file
        if file and not file.closed and span == self._span and file.size < self._rotate_bytes:
            return file
        self.close()
        # This file by itself is complete from its first frame on, of what was covered before.
        header = replace(self._header, local_from=max(self._header.local_from, ns))
        self._file = RecordingFile(self._path_at(span * self._rotate_ns), header)
        self._span = span
        return self._file

    def _path_at(self, span_ns: int) -> Path:
        """The newest file of the span that has room, else the next one's name."""
        hour = datetime.fromtimestamp(span_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H")
        n = 0
        while True:
            name = f"{self._header.exchange}-{hour}{f'.{n}' if n else ''}.gz"
            path = self.directory / name
            if not path.exists() or path.stat().st_size < self._rotate_bytes:
                return path
            n += 1
