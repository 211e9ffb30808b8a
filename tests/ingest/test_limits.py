"""The venues' limits in virtual time: no window ever holds more than is allowed."""

import asyncio
import random
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import rest
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.limits import LIMITS, Budget, Limiter, limiter, limits

ALLOWED = {  # EXCHANGES §1.3, §2.3, §3.2
    BINANCE: {"connections": (300, 300.0), "line": (10, 1.0)},
    OKX: {"connections": (3, 1.0), "line": (480, 3600.0)},
    HYPERLIQUID: {"connections": (30, 60.0), "messages": (2000, 60.0)},
}


def busiest(times: list[float], seconds: float) -> int:
    """The most moments in any window [t, t + seconds)."""
    return max(sum(t <= u < t + seconds - 1e-9 for u in times) for t in times)


rates = st.lists(st.tuples(st.integers(1, 6), st.floats(0.5, 20.0)), min_size=1, max_size=3)


@given(rates, st.lists(st.floats(0.0, 5.0), min_size=1, max_size=60))
def test_no_window_holds_more_than_its_rate(
    rates: list[tuple[int, float]], pauses: list[float]
) -> None:
    budget = Budget(*rates)
    asked = list(accumulate(pauses))
    granted = [budget.reserve(now) for now in asked]
    assert granted == sorted(granted)
    assert all(at >= now for at, now in zip(granted, asked, strict=True))
    for count, seconds in rates:
        assert busiest(granted, seconds) <= count


@given(rates)
def test_nobody_waits_without_need(rates: list[tuple[int, float]]) -> None:
    budget = Budget(*rates)
    fewest = min(count for count, _ in rates)
    assert [budget.reserve(0.0) for _ in range(fewest)] == [0.0] * fewest


class Virtual:
    """A clock that moves when everybody waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []

    def sleep(self, seconds: float) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((self.now + seconds, future))
        return future

    async def advance(self, until: float) -> None:
        while True:
            for _ in range(4):
                await asyncio.sleep(0)
            due = min((w for w in self._waiting if w[0] <= until), default=None, key=lambda w: w[0])
            if due is None:
                break
            self._waiting.remove(due)
            self.now = max(self.now, due[0])
            if not due[1].done():
                due[1].set_result(None)
        self.now = until


@pytest.mark.parametrize("exchange", [BINANCE, OKX, HYPERLIQUID])
async def test_a_reconnect_storm_stays_within_the_venues_limits(exchange: str) -> None:
    clock = Virtual()
    limits = Limiter(LIMITS[exchange], now=lambda: clock.now, sleep=clock.sleep)
    opened: list[float] = []
    sent: list[float] = []
    by_line: list[list[float]] = []
    standing = most = 0
    dice = random.Random(1)

    async def feed() -> None:
        nonlocal standing, most
        while True:
            await limits.connecting()
            standing += 1
            most = max(most, standing)
            opened.append(clock.now)
            line, mine = limits.line(), list[float]()
            by_line.append(mine)
            for _ in range(dice.randrange(40)):
                await limits.sending(line)
                mine.append(clock.now)
            sent.extend(mine)
            await clock.sleep(dice.random() / 10)  # and the venue drops it
            standing -= 1
            limits.closed()

    tasks = [asyncio.create_task(feed()) for _ in range(12)]
    await clock.advance(400.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    allowed = ALLOWED[exchange]
    count, seconds = allowed["connections"]
    assert busiest(opened, seconds) <= count
    assert len(opened) > 30
    if "messages" in allowed:
        assert busiest(sorted(sent), allowed["messages"][1]) <= allowed["messages"][0]
    if "line" in allowed:
        assert all(busiest(m, allowed["line"][1]) <= allowed["line"][0] for m in by_line if m)
    assert most <= (LIMITS[exchange].open_connections or 12)


async def test_an_attempt_that_is_cancelled_gives_its_place_back() -> None:
    clock = Virtual()
    limits = Limiter(LIMITS[HYPERLIQUID], now=lambda: clock.now, sleep=clock.sleep)
    for _ in range(3):
        await limits.connecting()
    waiting = [asyncio.create_task(limits.connecting()) for _ in range(7)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    again = [asyncio.create_task(limits.connecting()) for _ in range(7)]
    await clock.advance(120.0)
    assert all(task.done() for task in again)


async def test_a_venue_without_known_limits_is_not_limited() -> None:
    limits = limiter("elsewhere")
    for _ in range(1_000):
        await limits.connecting()
        await limits.sending(limits.line())


async def test_the_collectors_of_a_process_share_what_an_address_may_do() -> None:
    assert limiter(OKX) is limiter(OKX)
    assert limiter(OKX) is not limiter(BINANCE)
    assert rest.budget(OKX) is rest.budget(OKX)

    async def elsewhere() -> Limiter:
        return limiter(OKX)

    assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) is not limiter(OKX)


def test_what_one_collector_subscribes_leaves_less_to_the_others() -> None:
    shared = Limiter(LIMITS[HYPERLIQUID])
    assert shared.subscriptions_left("a") == 1000
    shared.subscribe("a", 300)
    assert (shared.subscriptions_left("a"), shared.subscriptions_left("b")) == (1000, 700)
    assert shared.room_to_overlap
    shared.subscribe("b", 300)
    assert not shared.room_to_overlap
    shared.subscribe("a", 0)
    assert shared.subscriptions_left("b") == 1000
    assert shared.room_to_overlap
    unlimited = Limiter(LIMITS[OKX])
    unlimited.subscribe("a", 10**6)
    assert unlimited.subscriptions_left("b") > 10**6
    assert unlimited.room_to_overlap


@given(st.sampled_from(sorted(LIMITS)), st.integers(1, 8))
def test_processes_of_one_address_together_stay_within_its_limits(
    exchange: str, processes: int
) -> None:
    whole, part = limits(exchange), limits(exchange, processes)
    assert part.line_messages == whole.line_messages
    for name in ("connections", "messages"):
        rates = zip(getattr(whole, name), getattr(part, name), strict=True)
        for (count, seconds), (mine, longer) in rates:
            assert mine >= 1
            assert processes * mine / longer <= count / seconds + 1e-9
    assert (part.subscriptions or 0) * processes <= (whole.subscriptions or 0)
    assert (part.open_connections or 0) * processes <= (whole.open_connections or 0)
