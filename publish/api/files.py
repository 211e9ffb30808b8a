"""Files of a directory's store, to whoever has a signed URL: whole or one range of bytes.

The file is opened before anything is said about it, so that one that is replaced meanwhile is
answered whole as it was. A request of several ranges is answered with the whole (RFC 9110, 14.2).
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from io import FileIO
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from publish.api.errors import Refused
from publish.signing import LocalSigner
from publish.store import Store

_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)
_PARQUET = "application/vnd.apache.parquet"


async def serve_file(request: Request, key: str, store: Store, signer: LocalSigner) -> Response:
    """403 for an altered, forged or expired URL, 404 once the file is gone, 416, else the bytes."""
    query = request.query_params
    if not signer.allows(key, query.get("expires", ""), query.get("signature", "")):
        raise Refused(403, "The URL has expired or was altered", code="url_refused")
    path = store.path(key)
    try:
        source = await asyncio.to_thread(_open, path) if path else None
    except FileNotFoundError:
        source = None
    if source is None:
        raise Refused(404, "The file is gone: ask for its URL again", code="file_gone")
    return _answer(request.headers, request.method, source)


def _open(path: Path) -> FileIO:
    return FileIO(path)


def _answer(asked: Mapping[str, str], method: str, source: FileIO) -> Response:
    stat = os.fstat(source.fileno())
    etag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}"'
    headers = {"Accept-Ranges": "bytes", "ETag": etag, "Content-Type": _PARQUET}
    span = None
    if asked.get("if-range", etag) == etag:
        span = _span(asked.get("range", ""), stat.st_size)
    start, end = span or (0, stat.st_size)
    if start >= end and span:
        raise Refused(
            416,
            f"The file has {stat.st_size} bytes",
            code="range_not_satisfiable",
            headers={"Content-Range": f"bytes */{stat.st_size}"},
        )
    headers["Content-Length"] = str(end - start)
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{stat.st_size}"
    status = 206 if span else 200
    if method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_bytes(source, start, end), status, headers)


def _span(text: str, size: int) -> tuple[int, int] | None:
    """[start, end) of a Range header; None if it is none, or one to be ignored."""
    found = _RANGE.fullmatch(text)
    if not found or not (found[1] or found[2]):
        return None
    if not found[1]:  # the last so many
        return max(0, size - int(found[2])) if int(found[2]) else size, size
    start = int(found[1])
    last = int(found[2]) if found[2] else size
    return None if last < start else (start, min(last + 1, size))


async def _bytes(source: FileIO, start: int, end: int) -> AsyncIterator[bytes]:
    with source:
        while start < end:
            length = min(_CHUNK, end - start)
            data = await asyncio.to_thread(os.pread, source.fileno(), length, start)
            if not data:
                raise OSError("the file became shorter while it was read")
            yield data
            start += len(data)
