"""One holder at a time, on a directory and on S3, also after a kill."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from publish.lease import HOLD_S, Lease, LeaseHeld, Place, check, leased
from publish.store import Store, StoreError

JULY = Place("flow", "okx-perps", "perpetual-BTC-USDT:USDT", 2026, 7)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_lease_is_of_one_month_of_one_dataset() -> None:
    key = "leases/flow/exchange=okx-perps/symbol=perpetual-BTC-USDT:USDT/2026-07.json"
    assert JULY.key == key


def test_it_excludes_until_it_is_released(store: Store) -> None:
    with leased(store, JULY, "fold"):
        with pytest.raises(LeaseHeld, match="is held by fold"):
            Lease(store, JULY, "replay").take()
        august = Place(JULY.dataset, JULY.exchange, JULY.symbol, 2026, 8)
        with leased(store, august, "replay"):
            pass
    assert store.list("leases") == []
    with leased(store, JULY, "replay"):
        pass


def test_it_expires_is_taken_over_and_the_old_holder_learns_of_it(store: Store) -> None:
    clock = Clock()
    old, new = Lease(store, JULY, "replay", clock), Lease(store, JULY, "audit", clock)
    old.take()
    clock.now += HOLD_S - 1
    with pytest.raises(LeaseHeld):
        new.take()
    clock.now += 2
    new.take()
    with pytest.raises(LeaseHeld, match="ran out"):
        old.keep()
    old.release()
    with pytest.raises(LeaseHeld, match="is held by audit"):
        Lease(store, JULY, "fold", clock).take()


def test_it_is_renewed(store: Store) -> None:
    clock = Clock()
    lease = Lease(store, JULY, "replay", clock)
    lease.take()
    for _ in range(4):
        clock.now += HOLD_S * 0.7
        lease.keep()
        with pytest.raises(LeaseHeld):
            Lease(store, JULY, "fold", clock).take()


def test_of_many_at_once_one_gets_it(another: Callable[[], Store]) -> None:
    clock = Clock()
    stores = [another() for _ in range(8)]
    won: list[int] = []
    together = threading.Barrier(len(stores))

    def compete(i: int, store: Store) -> None:
        together.wait()
        try:
            Lease(store, JULY, f"n{i}", clock).take()
            won.append(i)
        except LeaseHeld:
            pass

    for attempt in range(3):  # a fresh one, and ones that ran out
        threads = [threading.Thread(target=compete, args=of) for of in enumerate(stores)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == attempt + 1
        clock.now += HOLD_S + 1


def test_a_server_that_ignores_conditions_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(store)
    assert store.list("leases") == []
    monkeypatch.setattr(Store, "swap", lambda self, key, expected, data: True)
    with pytest.raises(StoreError, match="does not know conditional writes"):
        check(store)


KILLED = """
import os, signal, sys
from publish.lease import Lease
from publish.store import Store
from tests.publish.test_lease import JULY
Lease(Store(sys.argv[1]), JULY, "replay").take()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_holder_had_can_be_had_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}"
    subprocess.run([sys.executable, "-c", KILLED, url], check=False, timeout=60)
    store, clock = Store(url), Clock()
    clock.now = time.time()
    with monkeypatch.context() as elsewhere:  # where its process can't be seen
        elsewhere.setattr("publish.lease._place", lambda: "another machine")
        with pytest.raises(LeaseHeld, match="is held by replay"):
            Lease(store, JULY, "fold", clock).take()
        clock.now += HOLD_S + 1
        Lease(store, JULY, "fold", clock).take()
    subprocess.run([sys.executable, "-c", KILLED, f"{url}/other"], check=False, timeout=60)
    Lease(Store(f"{url}/other"), JULY, "fold").take()
