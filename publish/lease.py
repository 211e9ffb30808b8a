"""The lease of one (dataset, exchange, symbol, month): who changes its month files (DESIGN 8).

Publisher, replay and audit read a month file and put another in its place; two that did so at once
would lose what one of them wrote. So each first makes an object

    leases/{dataset}/exchange=…/symbol=…/YYYY-MM.json        {"holder", "process", "token", "until"}

by a conditional write, renews it while it works and removes it at the end. `until` (Unix seconds,
by clocks that agree within seconds): the lease of a holder that was killed is over then, or at once
for who can see that its process is gone. Who could not renew in time stops before its next write.
"""

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import orjson

from publish.layout import Series, instrument_path
from publish.store import NotFound, Store, StoreError

ROOT = "leases"
HOLD_S = 60.0
"""How long a lease holds unless it is renewed; one object is written in less."""
WAIT_S = 0.2
PATIENCE_S = 2 * HOLD_S
"""How long a replay or an audit waits for a lease that another holds."""


_held: set[str] = set()
"""The tokens of the leases that this process works under."""


class LeaseHeld(StoreError):
    """Another process is changing these files just now: try again."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """What a lease is of: all intervals and clocks of a dataset's month of one instrument."""

    dataset: str
    exchange: str
    symbol: str
    year: int
    month: int

    @classmethod
    def of(cls, series: Series, year: int, month: int) -> Self:
        """Where a series' month is."""
        return cls(series.dataset, series.exchange, series.symbol, year, month)

    @property
    def key(self) -> str:
        return (
            f"{ROOT}/{self.dataset}/{instrument_path(self.exchange, self.symbol)}"
            f"/{self.year:04}-{self.month:02}.json"
        )


def check(store: Store) -> None:
    """Raise `StoreError` if the store's server takes conditional writes for plain ones."""
    key = f"{ROOT}/.check-{secrets.token_hex(8)}"
    try:
        if not store.swap(key, None, b"1") or store.swap(key, None, b"2"):
            raise StoreError(
                f"{store.url}: its server does not know conditional writes (If-None-Match), by "
                f"which publisher, replay and audit exclude each other: use one that does"
            )
    finally:
        store.delete(key)


class Lease:
    """A lease that is held; `keep` it before each write. `now`: Unix seconds."""

    def __init__(
        self, store: Store, place: Place, holder: str, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._key = place.key
        self._now = now
        self._holder = holder
        self._token = secrets.token_hex(8)
        self._until = 0.0
        self._written = b""

    def take(self) -> None:
        """Raises `LeaseHeld`, and `StoreError`."""
        if self._swap(None):
            return
        try:
            found = self._store.get(self._key)
        except NotFound:
            found = None
        said = _said(found)
        if float(said["until"]) > self._now() and not _gone(said):
            where = f"{said['holder']} ({said['process']})"
            raise LeaseHeld(f"{self._store.url}: {self._key} is held by {where}")
        if not self._swap(found):
            raise LeaseHeld(f"{self._store.url}: {self._key} was just taken by another process")

    def keep(self) -> None:
        """Hold it for some time more. Raises `LeaseHeld` if another has it now."""
        left = self._until - self._now()
        if left < HOLD_S / 2 and not (left > 0 and self._swap(self._written)):
            raise LeaseHeld(f"{self._store.url}: {self._key} ran out and may be another's")

    def release(self) -> None:
        """Remove it, unless its time is over: then it may be another's."""
        _held.discard(self._token)
        if self._until - self._now() > WAIT_S:
            self._store.delete(self._key)

    def _swap(self, expected: bytes | None) -> bool:
        until = self._now() + HOLD_S
        of = {"holder": self._holder, "process": _process(), "token": self._token}
        data = orjson.dumps({**of, "until": until})
        _held.add(self._token)  # before others of this process can see it
        if not self._store.swap(self._key, expected, data):
            return False
        self._until, self._written = until, data
        return True


@contextmanager
def leased(store: Store, place: Place, holder: str, *, patience_s: float = 0.0) -> Iterator[Lease]:
    """Hold the lease; wait for another's end for so long. Raises `LeaseHeld` and `StoreError`."""
    lease = Lease(store, place, holder)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            lease.take()
            break
        except LeaseHeld:
            if time.monotonic() >= deadline:
                raise
            time.sleep(WAIT_S)
    try:
        yield lease
    finally:
        with suppress(StoreError):  # it runs out by itself
            lease.release()


def _said(data: bytes | None) -> dict[str, Any]:
    """What the object says; of one that no perpflow wrote, that it is over."""
    nobody = {"holder": "", "process": "", "token": "", "until": 0.0}
    try:
        said: dict[str, Any] = nobody | orjson.loads(data or b"{}")
    except (ValueError, TypeError):
        return nobody
    return said


@cache
def _place() -> str:
    """Where process ids mean the same."""
    with suppress(OSError):
        return f"{socket.gethostname()}/{os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _process() -> str:
    return f"{_place()} {os.getpid()}"


def _gone(said: Mapping[str, Any]) -> bool:
    """Whether it is known that the holder works no more."""
    place, _, pid = str(said["process"]).rpartition(" ")
    if place != _place() or not pid.isdigit():
        return False
    if int(pid) == os.getpid():
        return said["token"] not in _held
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
