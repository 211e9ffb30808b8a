"""Files to replay: from paths, globs and URLs to files on this machine.

A URL is anything fsspec opens (s3://, gs://, https://, …); what is not on this machine is copied
to a temporary directory while it is imported, and its hash is taken on the way.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from glob import glob, has_magic
from pathlib import Path
from typing import IO

import fsspec
from fsspec.core import url_to_fs

from publish.replay.sources.base import Input, SourceError
from publish.store import FAILURES

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_READ_BYTES = 1 << 20
_FRESH = {"use_listings_cache": False}  # a listing may be of before a file was replaced


def expand(given: Sequence[str]) -> list[str]:
    """The files that paths, globs and URLs name, each once, in the order given.

    Raises `SourceError` for a pattern that matches nothing and for a file given twice.
    """
    found: list[str] = []
    for text in given:
        names = _matches(text)
        if not names:
            raise SourceError(f"{text} matches no file")
        found += names
    places = [name if _URL.match(name) else str(Path(name).resolve()) for name in found]
    twice = sorted({name for name, at in zip(found, places, strict=True) if places.count(at) > 1})
    if twice:
        raise SourceError(f"{', '.join(twice)} is given more than once")
    return found


def _matches(text: str) -> list[str]:
    remote = _URL.match(text) is not None
    if not has_magic(text.partition("?")[0] if remote else text):
        return [text]
    if not remote:
        return [text] if Path(text).exists() else sorted(glob(text, recursive=True))
    with _readable(text):
        fs, pattern = url_to_fs(text, **_FRESH)
        return sorted(fs.unstrip_protocol(path) for path in fs.glob(pattern))


@contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    """The file, to read from anywhere in it. Raises `SourceError`."""
    with _readable(url):
        remote = _URL.match(url)
        file = fsspec.open(url, "rb", **_FRESH).open() if remote else Path(url).open("rb")  # noqa: SIM115
    with file:
        try:
            yield file
        except FAILURES as error:
            raise SourceError(f"can't read {url}: {error}") from error


def size_of(url: str) -> int:
    """Its bytes. Raises `SourceError`."""
    with _readable(url):
        if not _URL.match(url):
            return Path(url).stat().st_size
        fs, path = url_to_fs(url, **_FRESH)
        return int(fs.size(path) or 0)


def fetch(url: str, directory: Path) -> Input:
    """The file on this machine: what a URL has is copied into `directory`.

    Raises `SourceError`.
    """
    local = not _URL.match(url)
    path = Path(url)
    if not local:
        path = directory / hashlib.sha256(url.encode()).hexdigest()[:16] / Path(url).name
        path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    size = 0
    with opened(url) as source, nullcontext() if local else path.open("wb") as copy:
        while data := source.read(_READ_BYTES):
            digest.update(data)
            size += len(data)
            if copy is not None:
                copy.write(data)
    return Input(url, path, digest.hexdigest(), size)


def beside(url: str, suffix: str) -> bytes | None:
    """The small file whose name is `url` + `suffix`, None if there is none."""
    try:
        with opened(url + suffix) as file:
            return file.read(_READ_BYTES)
    except SourceError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


@contextmanager
def _readable(url: str) -> Iterator[None]:
    """Anything that goes wrong on the way to a file, as one line that names it."""
    try:
        yield
    except FileNotFoundError as error:  # over the network it says no more than the URL
        why = error.strerror or "it is not there, or can't be reached"
        raise SourceError(f"can't read {url}: {why}") from error
    except IsADirectoryError as error:
        what = "a directory that is no own archive (no raw or raw_open in it)"
        raise SourceError(f"{url} is {what}: give its files, {url}/*") from error
    except OSError as error:
        raise SourceError(f"can't read {url}: {error.strerror or error}") from error
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(f"can't read {url}: {error}") from error
