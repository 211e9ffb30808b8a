"""Simulated ticks as the venues' websocket frames, field for field as EXCHANGES.md has them.

A writer per venue turns the fills and quotes of a span into timed frames per channel. It keeps
what has to run on from span to span: ids and the order of pushes. All numbers are drawn whatever
channels are wanted, so a stream's frames don't depend on which others are made.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
import numpy.typing as npt

from ingest.simulator.flow import (
    FILLER,
    INSURANCE_FUND,
    MARKET,
    NO_ASK,
    NO_BID,
    Fills,
    Quotes,
)
from ingest.simulator.listings import BINANCE, HYPERLIQUID, OKX, Listing
from ingest.ticks import I64

MS = 1_000_000
_BOOL = (b"false", b"true")


@dataclass(slots=True)
class Pushed:
    """The frames of one stream over a span and when (ns since the epoch) each is pushed."""

    key: str
    time: I64
    frames: list[bytes]


class Texts(dict[int, bytes]):
    """Decimal text of whole ticks or lots, remembered: markets repeat themselves."""

    def __init__(self, text: Callable[[int], str]) -> None:
        self._text = text

    def __missing__(self, number: int) -> bytes:
        if len(self) > 200_000:
            self.clear()
        value = self[number] = self._text(number).encode()
        return value

    def of(self, numbers: npt.NDArray[Any]) -> Iterator[bytes]:
        return map(self.__getitem__, numbers.tolist())


class Writer:
    """The part all venues share; subclasses say which channels there are and write them."""

    channels: ClassVar[tuple[str, ...]]
    lag: ClassVar[float]  # ns from the match to the push, the median

    def __init__(self, listing: Listing, seed: int, epoch: int) -> None:
        name = f"{listing.exchange}|{listing.native}".encode()
        self.listing = listing
        self._native = listing.native.encode()
        self._epoch = epoch
        self._rng = np.random.default_rng([seed, 5, crc32(name)])
        self._last_push: dict[str, int] = {}
        self._trades = int(self._rng.integers(10**9, 9 * 10**9))
        self._sequence = int(self._rng.integers(10**11, 9 * 10**12))
        self._price = Texts(self._price_text)
        self._size = Texts(self._size_text)

    def write(self, fills: Fills, quotes: Quotes, wanted: Collection[str]) -> list[Pushed]:
        """The frames of the channels that are `wanted`."""
        raise NotImplementedError

    def _price_text(self, ticks: int) -> str:
        return f"{ticks * self.listing.tick:.{self.listing.price_decimals}f}"

    def _size_text(self, lots: int) -> str:
        return f"{lots * self.listing.lot:.{self.listing.size_decimals}f}"

    def _lags(self, n: int) -> I64:
        return self._rng.lognormal(np.log(self.lag), 0.5, n).astype(np.int64)

    def _pushes(self, channel: str, time: I64, lag: I64) -> I64:
        """Push times (ns since the epoch) of a stream, never decreasing."""
        if not len(time):
            return time
        push = self._epoch + time + lag
        push[0] = max(int(push[0]), self._last_push.get(channel, 0))
        push = np.maximum.accumulate(push)
        self._last_push[channel] = int(push[-1])
        return push

    def _ms(self, time: I64) -> list[int]:
        stamps: list[int] = ((self._epoch + time) // MS).tolist()
        return stamps

    def _take_ids(self, n: int) -> I64:
        """The next n trade ids, contiguous."""
        ids = np.arange(self._trades + 1, self._trades + 1 + n)
        self._trades += n
        return ids

    def key(self, channel: str) -> str:
        """The stream key of a channel of this instrument."""
        return f"{channel}:{self.listing.native}"


class BinanceWriter(Writer):
    """Combined frames: trade and bookTicker of /public, aggTrade of /market."""

    channels = ("trade", "bookTicker", "aggTrade")
    lag = 1.2e6

    def __init__(self, listing: Listing, seed: int, epoch: int) -> None:
        super().__init__(listing, seed, epoch)
        self._aggregates = int(self._rng.integers(10**8, 4 * 10**9))

    def key(self, channel: str) -> str:
        """The stream key of a channel of this instrument."""
        return f"{self.listing.native.lower()}@{channel}"

    def _template(self, channel: str, fields: bytes) -> bytes:
        event = b'{"stream":"%b","data":{"e":"%b",' % (
            self.key(channel).encode(),
            channel.encode(),
        )
        return event + fields.replace(b"SYMBOL", self._native) + b',"st":1}}'

    def write(self, fills: Fills, quotes: Quotes, wanted: Collection[str]) -> list[Pushed]:
        ids = self._take_ids(len(fills.time))
        trade_lag, quote_lag = self._lags(len(fills.time)), self._lags(len(quotes.time) - 1)
        groups = _groups(fills, fills.kind == MARKET)
        aggregate_lag = self._rng.integers(100 * MS, 155 * MS, len(groups))
        pushed = []
        if "trade" in wanted:
            pushed.append(self._trade(fills, ids, trade_lag))
        if "bookTicker" in wanted:
            pushed.append(self._book_ticker(quotes, quote_lag))
        if "aggTrade" in wanted:
            pushed.append(self._agg_trade(fills, ids, groups, aggregate_lag))
        self._aggregates += len(groups)
        return pushed

    def _trade(self, fills: Fills, ids: I64, lag: I64) -> Pushed:
        push = self._pushes("trade", fills.time, lag)
        template = self._template(
            "trade",
            b'"E":%d,"T":%d,"s":"SYMBOL","t":%d,"p":"%b","q":"%b","X":"%b","m":%b',
        )
        kinds = {MARKET: b"MARKET", FILLER: b"NA", INSURANCE_FUND: b"INSURANCE_FUND"}
        price = self._price.of(fills.price)
        size = self._size.of(fills.size)
        if (fills.kind == FILLER).any():  # the venue writes a bare 0 there
            empty = (fills.kind == FILLER).tolist()
            price = (b"0" if e else p for e, p in zip(empty, price, strict=True))
            size = (b"0" if e else q for e, q in zip(empty, size, strict=True))
        rows = zip(
            (push // MS).tolist(),
            self._ms(fills.time),
            ids.tolist(),
            price,
            size,
            map(kinds.__getitem__, fills.kind.tolist()),
            map(_BOOL.__getitem__, (fills.side < 0).tolist()),
            strict=True,
        )
        return Pushed(self.key("trade"), push, [template % row for row in rows])

    def _book_ticker(self, quotes: Quotes, lag: I64) -> Pushed:
        push = self._pushes("bookTicker", quotes.time[1:], lag)
        template = self._template(
            "bookTicker",
            b'"u":%d,"s":"SYMBOL","ps":"SYMBOL","b":"%b","B":"%b","a":"%b","A":"%b","T":%d,"E":%d',
        )
        rows = zip(
            (self._sequence + quotes.sequence[1:]).tolist(),
            self._price.of(quotes.bid[1:]),
            self._size.of(quotes.bid_size[1:]),
            self._price.of(quotes.ask[1:]),
            self._size.of(quotes.ask_size[1:]),
            self._ms(quotes.time[1:]),
            (push // MS).tolist(),
            strict=True,
        )
        return Pushed(self.key("bookTicker"), push, [template % row for row in rows])

    def _agg_trade(self, fills: Fills, ids: I64, groups: list[tuple[int, int]], lag: I64) -> Pushed:
        first = np.array([a for a, _ in groups], dtype=np.int64)
        push = self._pushes("aggTrade", fills.time[first], lag)
        template = self._template(
            "aggTrade",
            b'"E":%d,"a":%d,"s":"SYMBOL","p":"%b","q":"%b","nq":"%b","f":%d,"l":%d,"T":%d,"m":%b',
        )
        frames = []
        for number, ((a, b), sent) in enumerate(zip(groups, (push // MS).tolist(), strict=True)):
            size = self._size[int(fills.size[a:b].sum())]
            matched = (self._epoch + int(fills.time[a])) // MS
            head = (sent, self._aggregates + number + 1, self._price[int(fills.price[a])])
            ends = (int(ids[a]), int(ids[b - 1]))
            frames.append(
                template % (*head, size, size, *ends, matched, _BOOL[int(fills.side[a] < 0)])
            )
        return Pushed(self.key("aggTrade"), push, frames)


class OkxWriter(Writer):
    """trades-all of /business (a frame per taker order), trades and bbo-tbt of /public."""

    channels = ("trades-all", "trades", "bbo-tbt")
    lag = 2.5e6

    def _price_text(self, ticks: int) -> str:
        return _trimmed(super()._price_text(ticks))

    def _size_text(self, lots: int) -> str:
        return _trimmed(super()._size_text(lots))

    def write(self, fills: Fills, quotes: Quotes, wanted: Collection[str]) -> list[Pushed]:
        ids = self._take_ids(len(fills.time))
        lag, quote_lag = self._lags(len(fills.time)), self._lags(len(quotes.time) - 1)
        improved = self._rng.random(len(fills.time)) < 0.01
        source = list(map((b"0", b"1").__getitem__, improved.tolist()))
        pushed = []
        if "trades-all" in wanted:
            pushed.append(self._trades_all(fills, ids, lag, source))
        if "trades" in wanted:
            pushed.append(self._trades_by_price(fills, quotes, ids, lag))
        if "bbo-tbt" in wanted:
            pushed.append(self._bbo(quotes, quote_lag))
        return pushed

    def _head(self, channel: str) -> bytes:
        names = (channel.encode(), self._native)
        return b'{"arg":{"channel":"%b","instId":"%b"},"data":[' % names

    def _trades_all(self, fills: Fills, ids: I64, lag: I64, source: list[bytes]) -> Pushed:
        row = (
            b'{"instId":"%b","tradeId":"%%d","px":"%%b","sz":"%%b","side":"%%b","source":"%%b",'
            b'"ts":"%%d"}'
        ) % self._native
        rows = [
            row % values
            for values in zip(
                ids.tolist(),
                self._price.of(fills.price),
                self._size.of(fills.size),
                map(_okx_side, fills.side.tolist()),
                source,
                self._ms(fills.time),
                strict=True,
            )
        ]
        starts = _starts(fills.order)
        push = self._pushes("trades-all", fills.time[starts], lag[starts])
        return Pushed(self.key("trades-all"), push, _joined(self._head("trades-all"), rows, starts))

    def _trades_by_price(self, fills: Fills, quotes: Quotes, ids: I64, lag: I64) -> Pushed:
        template = (
            self._head("trades").replace(b"%", b"%%")
            + (
                b'{"instId":"%b","tradeId":"%%d","px":"%%b","sz":"%%b","side":"%%b","ts":"%%d",'
                b'"count":"%%d","source":"0","seqId":%%d}]}'
            )
            % self._native
        )
        groups = _groups(fills, np.ones(len(fills.time), dtype=bool))
        first = np.array([a for a, _ in groups], dtype=np.int64)
        push = self._pushes("trades", fills.time[first], lag[first])
        sequence = self._sequence + quotes.sequence[fills.quote]
        frames = []
        for a, b in groups:
            price, size = self._price[int(fills.price[a])], self._size[int(fills.size[a:b].sum())]
            stamp = (self._epoch + int(fills.time[a])) // MS
            side = _okx_side(int(fills.side[a]))
            frames.append(template % (ids[b - 1], price, size, side, stamp, b - a, sequence[a]))
        return Pushed(self.key("trades"), push, frames)

    def _bbo(self, quotes: Quotes, lag: I64) -> Pushed:
        push = self._pushes("bbo-tbt", quotes.time[1:], lag)
        template = self._head("bbo-tbt").replace(b"%", b"%%") + (
            b'{"asks":[%b],"bids":[%b],"ts":"%d","seqId":%d}]}'
        )
        level = b'["%b","%b","0","%d"]'
        orders = (1 + quotes.sequence[1:] % 17).tolist()
        asks, bids = (
            [
                level % values
                for values in zip(self._price.of(p), self._size.of(q), orders, strict=True)
            ]
            for p, q in (
                (quotes.ask[1:], quotes.ask_size[1:]),
                (quotes.bid[1:], quotes.bid_size[1:]),
            )
        )
        _blank(asks, quotes.sides[1:] == NO_ASK, b"")
        _blank(bids, quotes.sides[1:] == NO_BID, b"")
        sequence = (self._sequence + quotes.sequence[1:]).tolist()
        rows = zip(asks, bids, (push // MS).tolist(), sequence, strict=True)
        return Pushed(self.key("bbo-tbt"), push, [template % row for row in rows])


class HyperliquidWriter(Writer):
    """A trades frame per block with its fills, and bbo."""

    channels = ("trades", "bbo")
    lag = 60e6

    def __init__(self, listing: Listing, seed: int, epoch: int) -> None:
        super().__init__(listing, seed, epoch)
        raw = self._rng.bytes(20 * 512).hex().encode()
        self._users = [b'"0x%b"' % raw[i : i + 40] for i in range(0, len(raw), 40)]

    def _price_text(self, ticks: int) -> str:
        return _one_decimal(super()._price_text(ticks))

    def _size_text(self, lots: int) -> str:
        return _one_decimal(super()._size_text(lots))

    def write(self, fills: Fills, quotes: Quotes, wanted: Collection[str]) -> list[Pushed]:
        blocks = _starts(fills.time)
        lag, quote_lag = self._lags(len(blocks)), self._lags(len(quotes.time) - 1)
        tid = self._rng.integers(10**12, 2**50, len(fills.time))
        users = self._rng.integers(0, len(self._users), (2, len(fills.time)))
        orders = int(fills.order[-1] - fills.order[0]) + 1 if len(fills.order) else 0
        hashes = self._rng.bytes(32 * orders).hex().encode()
        pushed = []
        if "trades" in wanted:
            pushed.append(self._trades_of(fills, blocks, lag, tid, users, hashes))
        if "bbo" in wanted:
            pushed.append(self._bbo(quotes, quote_lag))
        return pushed

    def _trades_of(
        self, fills: Fills, blocks: I64, lag: I64, tid: I64, users: I64, hashes: bytes
    ) -> Pushed:
        row = (
            b'{"coin":"%b","side":"%%b","px":"%%b","sz":"%%b","time":%%d,"hash":"0x%%b",'
            b'"tid":%%d,"users":[%%b,%%b]}'
        ) % self._native
        at = ((fills.order - fills.order[:1]) * 64).tolist()
        rows = [
            row % values
            for values in zip(
                map(_hyperliquid_side, fills.side.tolist()),
                self._price.of(fills.price),
                self._size.of(fills.size),
                self._ms(fills.time),
                (hashes[i : i + 64] for i in at),
                tid.tolist(),
                map(self._users.__getitem__, users[0].tolist()),
                map(self._users.__getitem__, users[1].tolist()),
                strict=True,
            )
        ]
        push = self._pushes("trades", fills.time[blocks], lag)
        head = b'{"channel":"trades","data":['
        return Pushed(self.key("trades"), push, _joined(head, rows, blocks))

    def _bbo(self, quotes: Quotes, lag: I64) -> Pushed:
        push = self._pushes("bbo", quotes.time[1:], lag)
        template = (
            b'{"channel":"bbo","data":{"coin":"%b","time":%%d,"bbo":[%%b,%%b]}}' % self._native
        )
        level = b'{"px":"%b","sz":"%b","n":%d}'
        orders = (1 + quotes.sequence[1:] % 17).tolist()
        bids, asks = (
            [
                level % values
                for values in zip(self._price.of(p), self._size.of(q), orders, strict=True)
            ]
            for p, q in (
                (quotes.bid[1:], quotes.bid_size[1:]),
                (quotes.ask[1:], quotes.ask_size[1:]),
            )
        )
        _blank(bids, quotes.sides[1:] == NO_BID, b"null")
        _blank(asks, quotes.sides[1:] == NO_ASK, b"null")
        rows = zip(self._ms(quotes.time[1:]), bids, asks, strict=True)
        return Pushed(self.key("bbo"), push, [template % row for row in rows])


WRITERS: dict[str, type[Writer]] = {
    BINANCE: BinanceWriter,
    OKX: OkxWriter,
    HYPERLIQUID: HyperliquidWriter,
}


def _okx_side(side: int) -> bytes:
    return b"buy" if side > 0 else b"sell"


def _hyperliquid_side(side: int) -> bytes:
    return b"B" if side > 0 else b"A"


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _one_decimal(text: str) -> str:
    """Hyperliquid's numbers: no trailing zeros, but always a decimal."""
    short = _trimmed(text)
    return short if "." in short else f"{short}.0"


def _starts(keys: I64) -> I64:
    """Where each run of equal keys begins."""
    if not len(keys):
        return np.empty(0, np.int64)
    return np.concatenate(([0], np.flatnonzero(np.diff(keys)) + 1))


def _groups(fills: Fills, kept: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Row ranges [a, b) of one taker order at one price, of the rows that are kept."""
    changed = (np.diff(fills.order) != 0) | (np.diff(fills.price) != 0)
    starts = _starts(np.concatenate(([0], np.cumsum(changed)))[: len(fills.order)])
    ends = np.append(starts[1:], len(fills.order))
    pairs: Iterable[tuple[int, int]] = zip(starts.tolist(), ends.tolist(), strict=False)
    return [(a, b) for a, b in pairs if kept[a]]


def _joined(head: bytes, rows: list[bytes], starts: I64) -> list[bytes]:
    """A frame per run of rows."""
    begin = starts.tolist()
    end = [*begin[1:], len(rows)] if begin else []
    return [head + b",".join(rows[a:b]) + b"]}" for a, b in zip(begin, end, strict=True)]


def _blank(levels: list[bytes], where: npt.NDArray[np.bool_], empty: bytes) -> None:
    for i in np.flatnonzero(where).tolist():
        levels[i] = empty
