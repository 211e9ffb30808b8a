"""The three venues' frame writers, field for field as EXCHANGES.md has the payloads."""

from collections.abc import Collection

import numpy as np

from ingest.simulator.flow import FILLER, INSURANCE_FUND, MARKET, NO_ASK, NO_BID, Fills, Quotes
from ingest.simulator.frames import (
    MS,
    Pushed,
    Writer,
    blank_out,
    join_runs,
    order_groups,
    run_starts,
    trimmed,
)
from ingest.simulator.listings import BINANCE, HYPERLIQUID, OKX, Listing
from ingest.ticks import I64

_BOOL = (b"false", b"true")


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
        groups = order_groups(fills, fills.kind == MARKET)
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

    channels = ("trades-all", "bbo-tbt", "trades")
    lag = 2.5e6

    def _price_text(self, ticks: int) -> str:
        return trimmed(super()._price_text(ticks))

    def _size_text(self, lots: int) -> str:
        return trimmed(super()._size_text(lots))

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
        starts = run_starts(fills.order)
        push = self._pushes("trades-all", fills.time[starts], lag[starts])
        return Pushed(
            self.key("trades-all"), push, join_runs(self._head("trades-all"), rows, starts)
        )

    def _trades_by_price(self, fills: Fills, quotes: Quotes, ids: I64, lag: I64) -> Pushed:
        template = (
            self._head("trades").replace(b"%", b"%%")
            + (
                b'{"instId":"%b","tradeId":"%%d","px":"%%b","sz":"%%b","side":"%%b","ts":"%%d",'
                b'"count":"%%d","source":"0","seqId":%%d}]}'
            )
            % self._native
        )
        groups = order_groups(fills, np.ones(len(fills.time), dtype=bool))
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
        blank_out(asks, quotes.sides[1:] == NO_ASK, b"")
        blank_out(bids, quotes.sides[1:] == NO_BID, b"")
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
        blocks = run_starts(fills.time)
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
        return Pushed(self.key("trades"), push, join_runs(head, rows, blocks))

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
        blank_out(bids, quotes.sides[1:] == NO_BID, b"null")
        blank_out(asks, quotes.sides[1:] == NO_ASK, b"null")
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


def _one_decimal(text: str) -> str:
    """Hyperliquid's numbers: no trailing zeros, but always a decimal."""
    short = trimmed(text)
    return short if "." in short else f"{short}.0"
