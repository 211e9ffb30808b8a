"""The text in a file, unpacked as it is read: plain, gzip, or a zip of one file."""

import gzip
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from publish.replay.sources.base import SourceError

_FIRST_BYTES = 1 << 16
_FIRST_LINES = 10
_GZIP, _ZIP = b"\x1f\x8b", b"PK"
_BAD_PACKING = (
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    zipfile.BadZipFile,
    struct.error,
    NotImplementedError,  # a method of compression or encryption
    RuntimeError,  # a password
    ValueError,
    OverflowError,
)
"""What unpacking bytes that are not as they should be can raise."""


@contextmanager
def text_of(url: str, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    """What is in an open file, unpacked as it is read.

    Raises `SourceError` for a zip that can't be opened, or that holds anything but one file.
    """
    try:
        start = raw.read(4)
        raw.seek(0)
        if start.startswith(_ZIP):
            with zipfile.ZipFile(raw) as archive, archive.open(_only(url, archive)) as text:
                yield text
        elif start.startswith(_GZIP):
            with gzip.open(raw) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            yield raw
    except _BAD_PACKING as error:
        raise SourceError(f"{url}: {damage(error)}") from error
    except OSError as error:
        raise SourceError(f"can't read {url}: {error.strerror or error}") from error


def _only(url: str, archive: zipfile.ZipFile) -> str:
    names = archive.namelist()
    if len(names) != 1:
        raise SourceError(f"{url} holds {len(names)} files, where one is expected")
    return names[0]


def damage(error: BaseException) -> str:
    """What is wrong with packed bytes."""
    text = str(error) or type(error).__name__
    if isinstance(error, EOFError):
        return "truncated: it ends before its packed data does"
    if isinstance(error, zipfile.BadZipFile):
        if "not a zip file" in text:
            return "truncated zip: its table of contents is missing"
        return f"damaged zip ({text[:200]})"
    return f"damaged packed data ({text[:200]})"


def read_some(name: str, line: int, stream: IO[Any], size: int) -> bytes:
    """The next bytes of a file's text; damage is told with the line that was reached."""
    try:
        return bytes(stream.read(size))
    except _BAD_PACKING as error:
        raise SourceError(f"{name}:{line}: {damage(error)}") from error
    except OSError as error:
        raise SourceError(f"{name}:{line}: can't read on: {error}") from error


def first_lines(url: str, raw: IO[bytes]) -> list[bytes]:
    """The first lines that are not empty, ten at most, of the first 64 kB of an open file's text.

    Of a gzip that is damaged there, those before the damage. Raises `SourceError`.
    """
    start = raw.read(_FIRST_BYTES)
    raw.seek(0)
    if start.startswith(_ZIP):
        with text_of(url, raw) as text:
            start = read_some(url, 1, text, _FIRST_BYTES)
    elif start.startswith(_GZIP):
        start = _inflated(start)
    lines = [line for line in start.splitlines() if line.strip()]
    return lines[:_FIRST_LINES]


def is_zip(raw: IO[bytes]) -> bool:
    """Whether an open file is a zip; it is at its start afterwards."""
    raw.seek(0)
    start = raw.read(len(_ZIP))
    raw.seek(0)
    return start == _ZIP


def _inflated(packed: bytes) -> bytes:
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    text = b""
    try:
        while packed and len(text) < _FIRST_BYTES:
            # In small steps: the call that meets the damage gives nothing.
            text += inflate.decompress(packed[:64], _FIRST_BYTES)
            packed = packed[64:]
            if inflate.eof:
                packed = inflate.unused_data + packed
                inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    except zlib.error:
        pass
    return text
