"""Order flow of one simulated instrument: taker orders, their fills, and the best quotes.

Taker orders are a Hawkes process in its cluster form: orders of their own, at a rate that follows
the common activity, each of which sets off further ones within fractions of a second, mostly on
the same side. Quotes follow the common price plus a small basis; sizes are lognormal with a
Pareto tail. Times are ns since the market's start, prices in ticks, sizes in lots.
"""

import math
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from ingest.simulator.listings import BINANCE, HYPERLIQUID, Listing
from ingest.simulator.prices import STEPS_PER_SECOND
from ingest.ticks import F64, I8, I64

SECOND = 1_000_000_000
MARKET, FILLER, INSURANCE_FUND = 0, 1, 2
BOTH_SIDES, NO_BID, NO_ASK = 0, 1, 2

_ORDERS_PER_SECOND = 1.6  # of an instrument of weight 1, before the ones they set off
_QUOTES_PER_SECOND = 12.0
_CHILDREN = 0.55
_GENERATIONS = 5
_CHILD_DELAY = 0.12 * SECOND
_FILLS_STOP = 0.55
_REACTION = 3_000_000  # from an order to the quote it moves
_BLOCK_TIME = 70_000_000  # Hyperliquid's blocks: everything in one carries one stamp


@dataclass(slots=True)
class Fills:
    """Columns of equal length, in time order; `order` numbers orders, `quote` indexes quotes."""

    time: I64
    order: I64
    side: I8
    price: I64
    size: I64
    kind: I8
    quote: I64


@dataclass(slots=True)
class Quotes:
    """Columns of equal length, in time order; row 0 is the last quote of the previous span."""

    time: I64
    bid: I64
    bid_size: I64
    ask: I64
    ask_size: I64
    sides: I8
    sequence: I64


class Flow:
    """The order flow of one listing, walked forward span by span from `start` (ns, usually 0)."""

    def __init__(self, listing: Listing, seed: int, intensity: float, start: int) -> None:
        name = f"{listing.exchange}|{listing.native}".encode()
        self.listing = listing
        self._rng = np.random.default_rng([seed, 4, crc32(name)])
        self._rate = listing.weight * intensity
        self._now = start
        self._orders = 0
        self._later: tuple[I64, I8] = (np.empty(0, np.int64), np.empty(0, np.int8))
        self._last: Quotes | None = None
        self._basis = 2e-4 * float(self._rng.standard_normal())
        self._phase = 2 * math.pi * float(self._rng.random())

    def advance(self, activity: F64, path: F64) -> tuple[Fills, Quotes]:
        """Fills and quotes of the next len(activity) seconds, given their log prices."""
        start, self._now = self._now, self._now + len(activity) * SECOND
        drift = np.sign(np.diff(path[::STEPS_PER_SECOND]))
        times, sides = self._taker_orders(activity, drift, start)
        if self.listing.exchange == HYPERLIQUID:
            times = -(-times // _BLOCK_TIME) * _BLOCK_TIME
        quotes = self._quotes(activity, path, start, times)
        fills = self._fills(times, sides, quotes)
        self._last = _rows(quotes, slice(-1, None))
        return fills, quotes

    def _taker_orders(self, activity: F64, drift: F64, start: int) -> tuple[I64, I8]:
        rng = self._rng
        times, second = self._arrivals(activity * (self._rate * _ORDERS_PER_SECOND), start)
        informed = 0.5 + 0.15 * drift[second]
        sides = np.where(rng.random(len(times)) < informed, 1, -1).astype(np.int8)
        all_times, all_sides = [times, self._later[0]], [sides, self._later[1]]
        for _ in range(_GENERATIONS):
            parent = np.repeat(np.arange(len(times)), rng.poisson(_CHILDREN, len(times)))
            delay = rng.exponential(_CHILD_DELAY, len(parent)).astype(np.int64)
            turned = np.where(rng.random(len(parent)) < 0.2, -1, 1).astype(np.int8)
            times, sides = times[parent] + delay, sides[parent] * turned
            all_times.append(times)
            all_sides.append(sides)
        time, side = np.concatenate(all_times), np.concatenate(all_sides)
        order = np.argsort(time, kind="stable")
        time, side = time[order], side[order]
        cut = int(np.searchsorted(time, self._now))
        self._later = (time[cut:], side[cut:])
        return time[:cut], side[:cut]

    def _arrivals(self, rate: F64, start: int) -> tuple[I64, I64]:
        """Poisson arrival times in ns, sorted, and the second of the span each one is in."""
        count = self._rng.poisson(rate)
        second = np.repeat(np.arange(len(rate)), count)
        times = start + ((second + self._rng.random(len(second))) * SECOND).astype(np.int64)
        order = np.argsort(times, kind="stable")
        return times[order], second

    def _quotes(self, activity: F64, path: F64, start: int, orders: I64) -> Quotes:
        rng, item = self._rng, self.listing
        own, _ = self._arrivals(activity * (self._rate * _QUOTES_PER_SECOND), start)
        moved = orders[rng.random(len(orders)) < 0.8]
        after = np.minimum(moved + _REACTION, self._now - 1)
        time = np.sort(np.concatenate((own, after, [start] if self._last is None else [])))
        time = time.astype(np.int64)
        if item.exchange == HYPERLIQUID:
            time = np.unique(-(-time // _BLOCK_TIME) * _BLOCK_TIME)
            time = time if self._last is None else time[time > self._last.time[-1]]
        n = len(time)
        grid = start + np.arange(len(path)) * (SECOND // STEPS_PER_SECOND)
        wave = 1e-4 * np.sin(time / (900 * SECOND) + self._phase)
        fair = np.exp(np.interp(time, grid, path) + self._basis + wave) * item.units / item.tick
        quiet = 1.0 if item.weight > 0.05 else 4.0
        spread = 1 + (rng.exponential(0.35 * quiet, n)).astype(np.int64)
        bid = np.maximum(np.floor(fair - spread / 2).astype(np.int64), 1)
        one_sided = rng.random(n)
        rare = 0.002 if item.weight <= 0.05 else 0.0003
        return self._chained(
            Quotes(
                time=time,
                bid=bid,
                bid_size=self._standing_sizes(fair, n),
                ask=bid + spread,
                ask_size=self._standing_sizes(fair, n),
                sides=np.where(
                    one_sided < rare, NO_BID, np.where(one_sided > 1 - rare, NO_ASK, BOTH_SIDES)
                ).astype(np.int8),
                sequence=np.cumsum(rng.integers(1, 400, n)),
            )
        )

    def _standing_sizes(self, fair: F64, n: int) -> I64:
        """Lots at the best price: only half of the updates change a given side."""
        lots = self._lots(self._rng.lognormal(9.5, 1.2, n), fair)
        kept = np.where(self._rng.random(n) < 0.5, np.arange(n), 0)
        result: I64 = lots[np.maximum.accumulate(kept)] if n else lots
        return result

    def _chained(self, quotes: Quotes) -> Quotes:
        """The quotes with the last one of the previous span in front, sequences running on."""
        last = self._last or _rows(quotes, slice(0, 1))
        quotes.sequence = quotes.sequence + last.sequence[-1]
        columns = (
            np.concatenate((getattr(last, name), getattr(quotes, name)))
            for name in Quotes.__slots__
        )
        return Quotes(*columns)

    def _fills(self, times: I64, sides: I8, quotes: Quotes) -> Fills:
        rng, n = self._rng, len(times)
        order = np.repeat(np.arange(n), rng.geometric(_FILLS_STOP, n))
        first = np.searchsorted(order, np.arange(n))
        climbs = np.cumsum(rng.random(len(order)) < 0.25)
        level = climbs - climbs[first][order] if n else climbs
        at = np.maximum(np.searchsorted(quotes.time, times, side="right") - 1, 0)[order]
        side = sides[order]
        price = np.where(side > 0, quotes.ask[at] + level, quotes.bid[at] - level)
        price = np.maximum(price, 1)
        size = self._lots(self._trade_notional(len(order)), price)
        kind = self._off_book(order, n)
        price = np.where(kind == INSURANCE_FUND, (price * 1.02).astype(np.int64), price)
        self._orders += n
        return Fills(
            time=times[order],
            order=order + (self._orders - n),
            side=side,
            price=np.where(kind == FILLER, 0, price),
            size=np.where(kind == FILLER, 0, size),
            kind=kind,
            quote=at,
        )

    def _trade_notional(self, n: int) -> F64:
        """USD: lognormal around 400, one in a hundred of a Pareto tail."""
        usual = self._rng.lognormal(6.0, 1.7, n)
        tail = 20_000 * (1 + self._rng.pareto(1.4, n))
        result: F64 = np.where(self._rng.random(n) < 0.01, np.minimum(tail, 5e6), usual)
        return result

    def _lots(self, notional: F64, price: F64 | I64) -> I64:
        """USD to whole lots of the venue's size unit, at least one; `price` in ticks."""
        item = self.listing
        unit = item.contract_size * item.lot
        worth = unit if item.inverse else unit * item.tick * price
        result: I64 = np.maximum(np.rint(notional / worth), 1).astype(np.int64)
        return result

    def _off_book(self, order: I64, n: int) -> I8:
        """Binance's rare rows that are no market trades: always all fills of an order."""
        if self.listing.exchange != BINANCE:
            return np.zeros(len(order), np.int8)
        draw = self._rng.random(n)
        kind = np.where(draw < 1e-4, INSURANCE_FUND, np.where(draw < 4e-4, FILLER, MARKET))
        result: I8 = kind.astype(np.int8)[order]
        return result


def _rows(quotes: Quotes, index: slice) -> Quotes:
    return Quotes(*(getattr(quotes, name)[index] for name in Quotes.__slots__))
