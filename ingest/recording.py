"""Reading frame recordings, ours and other recorders'.

A recording is text, plain or gzip, one line per frame: `<local stamp> <payload>`, the stamp in ns,
µs or ms since the epoch, or as Tardis' raw data has it (api.tardis.dev/v1/data-feeds), ISO with
seven digits and a Z; there an empty line says that the connection was lost. Ours (see
`ingest.recorder`) also hold header lines that name the
exchange, the session and the instruments, and a new one whenever instruments are listed or another
contract size holds, so that a file can be replayed by itself; and the session's coverage as it
went to the log.
"""

import contextlib
import logging
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import islice
from math import inf
from pathlib import Path
from typing import BinaryIO

import msgspec
import orjson

from ingest.errors import UserError
from ingest.instruments import Instrument
from ingest.records import Coverage
from ingest.venues.common import Frame
from ingest.words import shown

_log = logging.getLogger(__name__)

MEMBER = b"\x1f\x8b\x08\x10\0\0\0\0\0\xff" + b"perpflow recording\0"
"""The gzip header (with a comment) that starts each of our members. Nothing else in a file looks
like it, so the reader finds the members behind a torn one."""

_GZIP = b"\x1f"  # one byte: a member may be torn after its first; text never starts with it
_HEADER_MARK = b'{"perpflow":"recording"'
_COVERAGE_MARK = b'{"perpflow":"coverage"'
_READ_BYTES = 1 << 18
_SCALES = {19: 1, 16: 1_000, 13: 1_000_000}
"""ns, µs and ms since the epoch by number of digits: unambiguous from 2001-09-09 to 2286."""
_ISO_CHARS = len("2024-01-01T00:00:00.1234567Z")
_LAST_NS = 4_102_444_800_000_000_000  # 2100
_LINE_BYTES = 32 << 20
_TEXT_BYTES = 1 << 20  # inflated at once: some bytes of gzip may be a thousand times as much
_HOPELESS_LINES = 10  # bad ones before the first good one: this is no recording
_BAD_LINES_KEPT = 100
_BAD_LINES_LOGGED = 10


class RecordingError(UserError):
    """A recording can't be written, or what should be one is missing, empty or something else."""


@dataclass(frozen=True, slots=True)
class RecordingHeader:
    """Who recorded what. Of the instruments with a native id in `covered` (None: of all) the frames
    are complete from `local_from` (ns) on, the first frame of a file that continues another; of the
    others a coverage line says when. The instruments hold for the frames that follow."""

    exchange: str
    session: str
    local_from: int
    instruments: tuple[Instrument, ...]
    covered: tuple[str, ...] | None = None

    @property
    def whole(self) -> set[str]:
        """The symbols of what is covered."""
        covered = self.covered
        return {i.symbol for i in self.instruments if covered is None or i.native in covered}

    def encode(self) -> bytes:
        instruments = [asdict(i) for i in self.instruments]
        for instrument in instruments:
            del instrument["exchange"]
        return orjson.dumps(
            {
                "perpflow": "recording",
                "exchange": self.exchange,
                "session": self.session,
                "local_from": self.local_from,
                "covered": self.covered,
                "instruments": instruments,
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "RecordingHeader":
        """Raises ValueError for anything but an encoded header."""
        try:
            body = orjson.loads(payload)
            own = {"exchange": body["exchange"]}
            named = body.get("covered", True)
            if isinstance(named, bool):  # as written before 0.1
                named = None if named else []
            body |= {"covered": named, "instruments": [i | own for i in body["instruments"]]}
            header = msgspec.convert(body, cls)
            sizes = [i.contract_size for i in header.instruments]
            if not all(0 < size < inf for size in sizes) or not 0 <= header.local_from < _LAST_NS:
                raise ValueError(f"sizes {sizes}, from {header.local_from}")
            return header
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"not a recording's header ({shown(error)})") from error


def coverage_line(coverage: Coverage) -> bytes:
    """The payload of a line that says from when instruments are covered."""
    return orjson.dumps({"perpflow": "coverage", **asdict(coverage)})


@dataclass(slots=True)
class ReadReport:
    """What a reading found beside frames: headers and lost connections with their line, coverage,
    bad lines, damage.

    `problems` are messages with file and line: all damage, the first 100 bad lines. Damage and the
    first 10 bad lines are logged too.
    """

    lines: int = 0
    bad_lines: int = 0
    headers: list[tuple[int, RecordingHeader]] = field(default_factory=list)
    disconnects: list[int] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """Damage of the file, or its half line: told always, and before the bad lines."""
        self.problems.insert(0, problem)
        _log.warning(problem)

    def add_bad_line(self, problem: str) -> None:
        """A line that is skipped: the first ones are told, all are counted."""
        self.bad_lines += 1
        if self.bad_lines <= _BAD_LINES_KEPT:
            self.problems.append(problem)
        if self.bad_lines <= _BAD_LINES_LOGGED:
            _log.warning(problem)


def read_frames(
    source: Path | str | BinaryIO, report: ReadReport | None = None
) -> Iterator[tuple[int, int, bytes]]:
    """(line number, local ns, payload) of every whole line; header lines go to the report.

    Bad lines and damage are reported and skipped: a torn gzip member gives the lines before the
    tear, and those of the members behind it. Raises `RecordingError` for a file that can't be
    read, is empty, or is no recording.
    """
    report = ReadReport() if report is None else report
    if not isinstance(source, str | Path):
        yield from _read(source, getattr(source, "name", "the recording"), report)
        return
    try:
        file = open(source, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise RecordingError(f"can't read the recording {source}: {error.strerror}") from error
    with file:
        yield from _read(file, str(source), report)


def read_chunks(
    source: Path | str | BinaryIO, report: ReadReport | None = None, size: int = 1 << 16
) -> Iterator[list[Frame]]:
    """The same frames in lists of `size`, as the venues' parsers take them."""
    frames = ((ns, payload) for _, ns, payload in read_frames(source, report))
    while chunk := list(islice(frames, size)):
        yield chunk


def read_header(source: Path | str | BinaryIO) -> RecordingHeader | None:
    """The recording's first header, None if it has none before its first frame (a foreign one).

    Raises `RecordingError` like `read_frames`.
    """
    report = ReadReport()
    next(read_frames(source, report), None)
    return report.headers[0][1] if report.headers else None


def _read(file: BinaryIO, name: str, report: ReadReport) -> Iterator[tuple[int, int, bytes]]:
    first = b""
    good = 0
    iso = lost = False
    try:
        for line in _lines(file, name, report):
            report.lines += 1
            first = first or line[:80]
            stamp, _, payload = line.partition(b" ")
            scale = _SCALES.get(len(stamp))
            if scale and stamp.isdigit():
                ns = int(stamp) * scale
            else:
                ns = _iso_ns(stamp) if len(stamp) == _ISO_CHARS else _LAST_NS
                iso = iso or ns < _LAST_NS
            if ns >= _LAST_NS or not payload:
                if line.strip():
                    _bad_line(line, name, report)
                elif iso and not lost:
                    lost = True
                    report.disconnects.append(report.lines)
                if not good and report.bad_lines >= _HOPELESS_LINES:
                    break
                continue
            good += 1
            lost = False
            if payload.startswith(_HEADER_MARK):
                _header_line(payload, name, report)
            elif payload.startswith(_COVERAGE_MARK):
                _coverage_line(payload, name, report)
            else:
                yield report.lines, ns, payload
    except OSError as error:
        raise RecordingError(f"can't read the recording {name}: {error}") from error
    if not good:
        half = report.problems[0] if report.problems else "it is empty"
        what = f"it starts with {first!r}" if first else half
        message = f"{name} is no frame recording (`<local ns> <frame>` a line): {what}"
        raise RecordingError(message)


def _iso_ns(stamp: bytes) -> int:
    """ns since the epoch of YYYY-MM-DDTHH:MM:SS.1234567Z, beyond all of ours for anything else."""
    whole, _, fraction = stamp.partition(b".")
    if whole[10:11] != b"T" or fraction[7:] != b"Z" or not fraction[:7].isdigit():
        return _LAST_NS
    try:
        second = datetime.fromisoformat(f"{whole.decode()}+00:00").timestamp()
    except ValueError:
        return _LAST_NS
    ns = int(second) * 1_000_000_000 + int(fraction[:7]) * 100
    return ns if ns >= 0 else _LAST_NS


def _bad_line(line: bytes, name: str, report: ReadReport) -> None:
    report.add_bad_line(f"{name}:{report.lines}: not `<local ns> <frame>`, skipped: {line[:80]!r}")


def _header_line(payload: bytes, name: str, report: ReadReport) -> None:
    try:
        report.headers.append((report.lines, RecordingHeader.decode(payload)))
    except ValueError as error:
        report.add_bad_line(f"{name}:{report.lines}: {error}, skipped: {payload[:80]!r}")


def _coverage_line(payload: bytes, name: str, report: ReadReport) -> None:
    try:
        body = orjson.loads(payload)
        del body["perpflow"]
        report.coverage.append(Coverage.decode(orjson.dumps(body)))
    except (KeyError, TypeError, ValueError) as error:
        report.add_bad_line(f"{name}:{report.lines}: {error}, skipped: {payload[:80]!r}")


def _lines(file: BinaryIO, name: str, report: ReadReport) -> Iterator[bytes]:
    """The whole lines, without their ends."""
    half: list[bytes] = []
    size = 0
    for new_member, text in _text(file, name, report):
        if new_member:
            yield from _last_line(b"".join(half), name, report)
            half, size = [], 0
        half.append(text)
        size += len(text)
        if b"\n" in text:
            lines = b"".join(half).split(b"\n")
            half = [lines.pop()]
            size = len(half[0])
            yield from lines
        elif size > _LINE_BYTES:  # and its end will be a bad line
            report.lines += 1
            start = b"".join(half[:2])[:80]
            report.add_bad_line(f"{name}:{report.lines}: no line, skipped: {start!r}")
            half, size = [], 0
    yield from _last_line(b"".join(half), name, report)


def _last_line(half: bytes, name: str, report: ReadReport) -> Iterator[bytes]:
    """A text's end without a line break: a line if its frame is whole."""
    try:
        if half:
            orjson.loads(half.partition(b" ")[2])
            yield half
    except orjson.JSONDecodeError:
        where = f"{name}:{report.lines + 1}"
        report.add(f"{where}: ends in half a line, skipped: {half[:80]!r}")


def _text(file: BinaryIO, name: str, report: ReadReport) -> Iterator[tuple[bool, bytes]]:
    """(whether a new member starts, decompressed text)."""
    start = file.read(len(_GZIP))
    if start != _GZIP:
        yield True, start
        while text := file.read(_READ_BYTES):
            yield False, text
        return
    member = _Member()
    for new_member, data in _pieces(file, start):
        if new_member:
            if damage := member.damage():
                report.add(f"{name}:{report.lines + 1}: {damage}; going on behind it")
            member = _Member()
            yield True, b""
        for text in member.inflate(data):
            yield False, text
    if damage := member.damage():
        report.add(f"{name}:{report.lines + 1}: {damage}")


def _pieces(file: BinaryIO, buffer: bytes) -> Iterator[tuple[bool, bytes]]:
    """(whether it starts one of our members, compressed bytes): cut where our members start."""
    new = True
    hold = len(MEMBER) - 1  # a mark may lie across two reads
    while data := file.read(_READ_BYTES):
        buffer += data
        while (at := buffer.find(MEMBER, 1 if new else 0)) >= 0:
            yield new, buffer[:at]
            buffer, new = buffer[at:], True
        if len(buffer) > hold:
            yield new, buffer[:-hold]
            buffer, new = buffer[-hold:], False
    yield new, buffer


class _Member:
    """Inflates one gzip member (of another recorder's file: several) as far as it is good."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._error: zlib.error | None = None
        self._fed = False

    def damage(self) -> str | None:
        """What is wrong with the bytes so far if nothing more comes."""
        if self._error:
            return f"damaged gzip ({self._error})"
        return "truncated gzip" if self._fed and not self._inflate.eof else None

    def inflate(self, data: bytes) -> Iterator[bytes]:
        while data and not self._error:
            if self._inflate.eof:
                data = data.lstrip(b"\0")  # padding between members is allowed
                if not data:
                    return
                self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
            before = self._inflate.copy()
            try:
                text = self._inflate.decompress(data, _TEXT_BYTES)
            except zlib.error as error:
                self._error = error
                yield from _salvage(before, data)
                return
            self._fed = True
            data = self._inflate.unused_data or self._inflate.unconsumed_tail
            yield text


def _salvage(inflate: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    """What comes before the error: zlib forgets the good part of the call that fails."""
    with contextlib.suppress(zlib.error):
        for at in range(len(data)):
            yield inflate.decompress(data[at : at + 1])
