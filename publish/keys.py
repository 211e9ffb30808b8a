"""API keys: a JSON file of hashes, plans and rates, and the secret that signs local files' URLs.

A key is `pf_<id>_<secret>`; the file keeps a SHA-256 of the whole key (256 random bits need no
slow hash), so what is read from it opens nothing. It is only ever replaced whole, under a lock, and
read again when it has changed, so that adding and revoking take effect without a restart.
"""

import fcntl
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import orjson

from ingest.errors import UserError

Plan = Literal["preview", "standard", "prime", "prime+raw"]
PLANS: tuple[Plan, ...] = get_args(Plan)
RATES: Mapping[Plan, int] = {"preview": 5, "standard": 20, "prime": 50, "prime+raw": 50}
"""Requests a second that a key of the plan may make, if it is not given a rate of its own."""

DEMO_KEY = "DEMO-KEY"
"""What the public client sends where its user has no key: good for previews alone."""

_RECHECK_S = 1.0
_NO_HASH = "0" * 64


class KeysError(UserError):
    """The file of keys can't be read or written, or there is no such key."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a key may do: `rate` in requests a second. `created`: ISO 8601, UTC."""

    id: str
    name: str
    plan: Plan
    rate: int
    created: str
    hash: str


DEMO = Key("demo", "the public demo key", "preview", RATES["preview"], "", "")


@dataclass(frozen=True, slots=True)
class _Content:
    secret: bytes
    keys: Mapping[str, Key]

    def encoded(self) -> bytes:
        document = {
            "version": 1,
            "signing_secret": self.secret.hex(),
            "keys": [asdict(key) for key in self.keys.values()],
        }
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def decoded(cls, data: bytes) -> "_Content":
        document = orjson.loads(data)
        keys = [Key(**item) for item in document["keys"]]
        if any(key.plan not in PLANS or key.rate < 1 for key in keys):
            raise ValueError("an unknown plan or a rate below 1")
        secret = bytes.fromhex(document["signing_secret"])
        if len(secret) < 32:
            raise ValueError("signing_secret has less than 32 bytes")
        return cls(secret, {key.id: key for key in keys})


class KeyFile:
    """The keys in a file. Methods block briefly, may be called from any thread, raise `KeysError`.

    `clock`: monotonic seconds; a change of the file is noticed within one.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._checked = -_RECHECK_S
        self._version: tuple[int, ...] | None = None
        self._content: _Content | None = None

    def exists(self) -> bool:
        return self.path.exists()

    def authenticate(self, text: str) -> Key | None:
        """The key that `text` is, or None. What it takes doesn't depend on how much is right."""
        if hmac.compare_digest(text.encode(), DEMO_KEY.encode()):
            return DEMO
        identity = text.split("_", 2)
        key = self._known(identity[1]) if len(identity) == 3 else None
        same = hmac.compare_digest(key.hash if key else _NO_HASH, _hash(text))
        return key if key and same else None

    def _known(self, identity: str) -> Key | None:
        # One that was added a moment ago works at once.
        return self._current().keys.get(identity) or self._current(0.0).keys.get(identity)

    def holds(self, key: Key) -> bool:
        """Whether that key is (still) as it was given."""
        return key == DEMO or self._current().keys.get(key.id) == key

    def signing_secret(self) -> bytes:
        return self._current().secret

    def keys(self) -> list[Key]:
        return list(self._read().keys.values())

    def add(self, name: str, plan: Plan, rate: int | None = None) -> str:
        """A new key's text, which is not kept. Makes the file if there is none."""
        identity = secrets.token_hex(4)
        text = f"pf_{identity}_{secrets.token_urlsafe(32)}"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        key = Key(identity, name, plan, rate or RATES[plan], now, _hash(text))
        with self._changing() as content:
            self._write(replace(content, keys={**content.keys, identity: key}))
        return text

    def revoke(self, identity: str) -> Key:
        """Take a key away; returns what it was."""
        with self._changing() as content:
            keys = dict(content.keys)
            if identity not in keys:
                raise KeysError(
                    f"{self.path}: there is no key {identity!r}: see perpflow keys list"
                )
            gone = keys.pop(identity)
            self._write(replace(content, keys=keys))
        return gone

    def _current(self, fresh_s: float = _RECHECK_S) -> _Content:
        with self._lock:
            if self._content is None or self._clock() - self._checked >= fresh_s:
                self._checked = self._clock()
                version = self._stat()
                if self._content is None or version != self._version:
                    self._content, self._version = self._read(), version
            return self._content

    def _stat(self) -> tuple[int, ...]:
        with self._errors("read"):
            stat = self.path.stat()
        return (stat.st_ino, stat.st_mtime_ns, stat.st_size)

    def _read(self) -> _Content:
        with self._errors("read"):
            data = self.path.read_bytes()
        try:
            return _Content.decoded(data)
        except (ValueError, KeyError, TypeError) as error:
            raise KeysError(f"{self.path}: not a file of perpflow's keys: {error}") from None

    @contextmanager
    def _changing(self) -> Iterator[_Content]:
        """The content, while no other process changes it."""
        with self._errors("write"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(f"{self.path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._read() if self.exists() else _Content(secrets.token_bytes(32), {})
        finally:
            os.close(lock)

    def _write(self, content: _Content) -> None:
        temporary = Path(f"{self.path}.new")
        with self._errors("write"):
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as sink:
                sink.write(content.encoded())
                sink.flush()
                os.fsync(sink.fileno())
            os.replace(temporary, self.path)
        with self._lock:
            self._content = None

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = (
                ": make one with perpflow keys add" if isinstance(error, FileNotFoundError) else ""
            )
            raise KeysError(
                f"{self.path}: can't {action} the keys: {error.strerror}{hint}"
            ) from error


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def table(keys: list[Key]) -> str:
    """What may be shown of keys: everything but their hashes."""
    rows = [("id", "plan", "rate/s", "created", "name")]
    rows += [(key.id, key.plan, str(key.rate), key.created, key.name) for key in keys]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)
