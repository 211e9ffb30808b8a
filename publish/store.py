"""Where objects live: a directory (`file://`) or a bucket (`s3://`), behind one small interface.

Keys are relative, with `/`. An object is only ever replaced whole: a reader, or a process killed at
any moment, sees the old object or the new one, never a part.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import fsspec
from aiohttp import ClientError as ConnectionFailure
from botocore.exceptions import BotoCoreError
from botocore.parsers import ResponseParserError
from s3fs.utils import FileExpired

from ingest.errors import UserError
from publish import metrics
from publish.settings import PublishSettings

_LOCK = ".perpflow-lock"
_PROBE = ".perpflow-write-check"
_TEMPORARY = ".perpflow-tmp-"
_ABANDONED_S = 3600.0
FAILURES = (OSError, BotoCoreError, ResponseParserError, ConnectionFailure)
"""What a store that can't or won't do raises: the file system, S3's answers, the way there."""
_S3_CONFIG = {
    "connect_timeout": 5,
    "read_timeout": 20,
    "retries": {"mode": "standard", "total_max_attempts": 2},
}


class StoreError(UserError):
    """A store operation failed; the message names the store, the key and the reason."""


class NotFound(StoreError):
    """There is no object of that key."""


class Replaced(StoreError):
    """The object was replaced while it was read in parts: read it again."""


class Store:
    """Objects under `url`: `file:///data`, `file://./data` (relative), `s3://bucket/prefix`.

    S3 credentials and region come from the usual AWS environment and files; `endpoint_url` (or
    AWS_ENDPOINT_URL_S3) names another S3 server. `encryption`: what S3 encrypts objects with,
    "AES256" or "aws:kms", the latter by the key `kms_key` or the account's. Methods block and may
    be called from any thread; they raise `StoreError`.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None = None,
        encryption: str | None = None,
        kms_key: str | None = None,
    ) -> None:
        scheme, separator, rest = url.partition("://")
        if not separator or not rest or scheme not in ("file", "s3"):
            raise StoreError(f"{url!r} is no store: use file://DIRECTORY or s3://BUCKET/PREFIX")
        self.url = url
        self.endpoint_url = endpoint_url
        self._local = scheme == "file"
        # Listings are never cached: other processes write too.
        if self._local:
            self._root = str(Path(rest).absolute())
            self._fs = fsspec.filesystem("file", use_listings_cache=False)
        else:
            self._root = rest.rstrip("/")
            self._fs = fsspec.filesystem(
                "s3",
                endpoint_url=endpoint_url,
                use_listings_cache=False,
                skip_instance_cache=True,
                config_kwargs=_S3_CONFIG,
                s3_additional_kwargs=_encrypted(encryption, kms_key),
            )
            # botocore retries too, and whoever can wait longer tries again by itself.
            self._fs.retries = 2

    def put(self, key: str, data: bytes) -> None:
        """Make `data` the object, durable when it returns."""
        if self._local:
            with self.replacing(key) as sink:
                sink.write(data)
            return
        with self._errors("write", key):
            self._fs.pipe_file(self._path(key), data)
        _count(key)

    def swap(self, key: str, expected: bytes | None, data: bytes) -> bool:
        """Make `data` the object if it is still `expected` (None: there is none), in one step.

        Of several that try at once one succeeds; whether it was this one.
        """
        with self._errors("write", key):
            if self._local:
                return self._swap_file(Path(self._path(key)), expected, data)
            return self._swap_s3(key, expected, data)

    @contextmanager
    def replacing(self, key: str) -> Iterator[IO[bytes]]:
        """A file to write; it becomes the object when the block ends without an exception."""
        place = self._replacing_file if self._local else self._replacing_s3
        with self._errors("write", key), place(key) as sink:
            yield sink
        _count(key)

    def copy(self, source: str, key: str) -> None:
        """Make `key` what `source` is, durable when it returns."""
        with self._errors("copy", source):
            if self._local:
                self._link(Path(self._path(source)), Path(self._path(key)))
            else:
                self._fs.cp_file(self._path(source), self._path(key))
        _count(key)

    def get(self, key: str) -> bytes:
        """The whole object. Raises `NotFound`."""
        with self._errors("read", key, missing=True):
            # One request: parts fetched one by one could be of two versions of the object.
            options = {} if self._local else {"max_concurrency": 1}
            return bytes(self._fs.cat_file(self._path(key), **options))

    @contextmanager
    def reading(self, key: str) -> Iterator[Any]:
        """A seekable binary file of the object, for ranges of large ones.

        All of it is of one version. Raises `NotFound`, and while it is read on S3 `Replaced`.
        """
        # Parquet readers know which ranges they want; reading ahead would fetch them twice.
        options = {} if self._local else {"cache_type": "none"}
        with self._errors("read", key, missing=True):
            source = self._fs.open(self._path(key), "rb", **options)
        with source, self._errors("read", key):
            yield source

    def exists(self, key: str) -> bool:
        with self._errors("look for", key):
            return bool(self._fs.exists(self._path(key)))

    def list(self, prefix: str) -> list[str]:
        """The keys under the directory `prefix`, sorted; [] if there is none."""
        with self._errors("list", prefix):
            found = self._fs.find(self._path(prefix))
        keys = (str(path).removeprefix(f"{self._root}/") for path in found)
        # An S3 server may answer with the prefix itself, as a file, once all below it is deleted.
        below = f"{prefix}/" if prefix else ""
        return sorted(key for key in keys if key.startswith(below) and _is_object(key))

    def sizes(self, prefix: str) -> dict[str, int]:
        """`list`, with the bytes of each object."""
        with self._errors("list", prefix):
            found = self._fs.find(self._path(prefix), detail=True)
        below = f"{self._root}/{prefix}/"
        items = {str(path): int(info["size"]) for path, info in found.items()}
        return {
            path.removeprefix(f"{self._root}/"): size
            for path, size in sorted(items.items())
            if path.startswith(below) and _is_object(path)
        }

    def digest(self, key: str) -> str:
        """What is another whenever the object's bytes are: S3's ETag; of a file its SHA-256.

        Raises `NotFound`.
        """
        with self._errors("read", key, missing=True):
            if not self._local:
                return str(self._fs.info(self._path(key))["ETag"]).strip('"')
            stat = os.stat(self._path(key))
            return _sha256(self._path(key), stat.st_size, stat.st_mtime_ns)

    def children(self, prefix: str) -> Sequence[str]:
        """The names of the directories directly under the directory `prefix`, sorted."""
        with self._errors("list", prefix), suppress(FileNotFoundError):
            found = self._fs.ls(self._path(prefix), detail=True)
            paths = (str(info["name"]) for info in found if info["type"] == "directory")
            return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)
        return []

    def path(self, key: str) -> Path | None:
        """Where a directory's store has the object; None on S3."""
        return Path(self._path(key)) if self._local else None

    def delete(self, key: str) -> None:
        """Remove the object; harmless if there is none."""
        path = self._path(key)
        with self._errors("delete", key), suppress(FileNotFoundError):
            self._fs.rm_file(path)
        if self._local:
            with suppress(OSError):  # not empty
                for parent in Path(path).relative_to(self._root).parents:
                    (Path(self._root) / parent).rmdir()

    def check(self) -> None:
        """Raise `StoreError` if objects can't be written here."""
        try:
            self.put(_PROBE, b"")
            self.delete(_PROBE)
        except StoreError as error:
            raise StoreError(f"{self.url} is not writable: {error.__cause__}") from error

    def sweep(self) -> None:
        """Remove what writers that were killed left behind: files half written an hour ago."""
        if not self._local:
            return  # an upload that was cut off leaves no object
        for path in Path(self._root).rglob(f"{_TEMPORARY}*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextmanager
    def _errors(self, action: str, key: str, missing: bool = False) -> Iterator[None]:
        """`missing`: the object may not be there, and that is `NotFound`."""
        began = time.perf_counter()
        try:
            yield
            metrics.STORE_SECONDS.labels(action).observe(time.perf_counter() - began)
        except FAILURES as error:
            kind = StoreError
            if missing and isinstance(error, FileNotFoundError):
                kind = NotFound
            elif isinstance(error, FileExpired):
                kind = Replaced
            if kind is not NotFound:
                metrics.STORE_FAILURES.labels(action).inc()
            raise kind(f"{self.url}: can't {action} {key}: {error}") from error

    @contextmanager
    def _replacing_file(self, key: str) -> Iterator[IO[bytes]]:
        path = Path(self._path(key))
        descriptor, temporary = _temporary_beside(path)
        try:
            with os.fdopen(descriptor, "wb") as sink:
                yield sink
                sink.flush()
                os.fsync(sink.fileno())
            os.replace(temporary, path)
            _sync_directory(path.parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def _link(self, source: Path, path: Path) -> None:
        """Objects are only ever replaced whole, so one file may well be two of them."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            os.link(source, temporary)
        except OSError:  # a file system that has no links
            key = str(path.relative_to(self._root))
            with source.open("rb") as content, self._replacing_file(key) as sink:
                shutil.copyfileobj(content, sink)
            return
        os.replace(temporary, path)
        temporary.unlink(missing_ok=True)  # it stays if both were the same file already
        _sync_directory(path.parent)

    def _swap_file(self, path: Path, expected: bytes | None, data: bytes) -> bool:
        """Under a lock that the system lets go of when its holder dies; not durable at once."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.parent / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = path.read_bytes() if path.exists() else None
            if found != expected:
                return False
            descriptor, temporary = _temporary_beside(path)
            with os.fdopen(descriptor, "wb") as sink:
                sink.write(data)
            os.replace(temporary, path)
            return True
        finally:
            os.close(lock)

    def _swap_s3(self, key: str, expected: bytes | None, data: bytes) -> bool:
        bucket, _, name = self._path(key).partition("/")
        condition = {"IfNoneMatch": "*"}
        try:
            if expected is not None:
                head = self._fs.call_s3("head_object", Bucket=bucket, Key=name)
                if self.get(key) != expected:
                    return False
                condition = {"IfMatch": head["ETag"]}
            self._fs.call_s3("put_object", Bucket=bucket, Key=name, Body=data, **condition)
        except (FileNotFoundError, NotFound):
            return False
        except OSError as error:
            if not _refused(error):
                raise
            # A request that was sent again after its success finds what it has written itself.
            return self.exists(key) and self.get(key) == data
        return True

    @contextmanager
    def _replacing_s3(self, key: str) -> Iterator[IO[bytes]]:
        with tempfile.NamedTemporaryFile(prefix="perpflow-") as spool:
            yield spool
            spool.flush()
            self._fs.put_file(spool.name, self._path(key))


def open_store(settings: PublishSettings) -> Store:
    """The store that the settings name."""
    return Store(
        settings.url,
        endpoint_url=settings.s3_endpoint,
        encryption=settings.s3_encryption,
        kms_key=settings.s3_kms_key,
    )


def _refused(error: OSError) -> bool:
    """Whether a condition of a write did not hold, however s3fs says it."""
    answer = getattr(error.__cause__, "response", {}).get("Error", {})
    codes = ("PreconditionFailed", "ConditionalRequestConflict")
    return isinstance(error, FileExistsError) or answer.get("Code") in codes


@lru_cache(maxsize=1 << 14)
def _sha256(path: str, size: int, changed_ns: int) -> str:
    """Read once a process: many instruments are in one chunk of an open day."""
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _count(key: str) -> None:
    tree, separator, _ = key.partition("/")
    metrics.FILES.labels(tree if separator else "other").inc()


def _encrypted(encryption: str | None, kms_key: str | None) -> dict[str, str]:
    wanted = {"ServerSideEncryption": encryption, "SSEKMSKeyId": kms_key}
    return {name: value for name, value in wanted.items() if value is not None}


def _is_object(path: str) -> bool:
    return _TEMPORARY not in path and not path.endswith(_LOCK)


def _temporary_beside(path: Path) -> tuple[int, str]:
    """A new file in the object's directory, so that renaming it is one step."""
    for _ in range(10):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # a deletion just removed the empty directory
            descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
            os.fchmod(descriptor, 0o644)
            return descriptor, name
    raise FileNotFoundError(f"{path.parent} disappears as soon as it is made")


def _sync_directory(path: Path) -> None:
    """A rename is durable once its directory is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
