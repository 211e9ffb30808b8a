"""The generated market: what it says must hold together the way the venues' streams do."""

from collections import Counter, defaultdict
from itertools import islice, pairwise
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.batches import Universe
from ingest.simulator.feeds import native_of, stream_key, until
from ingest.simulator.listings import BINANCE, DEFAULT_NATIVES, EXCHANGES, HYPERLIQUID, OKX
from ingest.simulator.market import Event, Market
from ingest.simulator.spans import instruments_of
from ingest.simulator.venue_frames import WRITERS
from ingest.venues import ParseReport, ParserState, Row, venue
from ingest.venues.common import ROW_STAMPS

START = 1_790_000_000_000_000_000
TRADES_AND_QUOTES = [
    (exchange, trades, WRITERS[exchange].channels[1])
    for exchange in EXCHANGES
    for trades in venue(exchange).trade_channels
]


def span(exchange: str, seconds: float = 600, seed: int = 7, **options: Any) -> list[Event]:
    market = Market(seed, exchange, start_ns=START, **options)
    end = START + round(seconds * 1e9)
    return [event for events in until(market.events(), end) for event in events]


def bodies(events: list[Event], key: str) -> list[Any]:
    return [orjson.loads(frame) for _, of, frame in events if of == key]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_seed_is_a_market(exchange: str) -> None:
    first = span(exchange, 120)
    assert first == span(exchange, 120)
    assert first != span(exchange, 120, seed=8)
    assert first == span(exchange, 300)[: len(first)]


@settings(max_examples=15, deadline=None)
@given(
    exchange=st.sampled_from(EXCHANGES),
    seed=st.integers(0, 2**63),
    intensity=st.floats(0.01, 30),
)
def test_events_are_in_order_and_after_the_start(
    exchange: str, seed: int, intensity: float
) -> None:
    market = Market(seed, exchange, start_ns=START, intensity=intensity)
    times = [time for events in islice(market.events(), 3) for time, _, _ in events]
    assert all(a <= b for a, b in pairwise(times))
    assert not times or times[0] >= START


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_stream_does_not_depend_on_the_channels_asked_for(exchange: str) -> None:
    every = span(exchange, 200)
    for channel in WRITERS[exchange].channels:
        own = span(exchange, 200, channels=[channel])
        keys = {key for _, key, _ in own}
        assert own == [event for event in every if event[1] in keys]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_every_frame_says_its_stream(exchange: str) -> None:
    for _, key, frame in span(exchange, 100):
        assert stream_key(exchange, frame) == key
        assert native_of(exchange, key) in DEFAULT_NATIVES[exchange]


@pytest.mark.parametrize(("exchange", "trades", "quotes"), TRADES_AND_QUOTES)
def test_every_frame_parses(exchange: str, trades: str, quotes: str) -> None:
    market = Market(7, exchange, start_ns=START, channels=[trades, quotes], intensity=5)
    events = [event for chunk in islice(market.events(), 8) for event in chunk]
    universe = Universe(instruments_of(market.listings))
    trade_rows: list[Row] = []
    quote_rows: list[Row] = []
    report = ParseReport()
    routes = universe.routes([trade_rows], [quote_rows])
    frames = [(time, frame) for time, _, frame in events]
    venue(exchange).parse(frames, routes, 0, report, ParserState())
    assert (report.malformed, report.unknown, report.ignored) == (Counter(), Counter(), 0)
    assert report.frames == len(events)
    assert report.trades == len(trade_rows) > 1_000
    assert report.quotes == len(quote_rows) > 4_000
    stamps = np.array([ROW_STAMPS.unpack_from(row) for row in trade_rows + quote_rows])
    assert stamps[:, 0].min() >= START // 1_000_000
    delay = stamps[:, 1] - stamps[:, 0] * 1_000_000
    assert delay.min() >= 0
    assert delay.max() < 3e9


def test_binance_fields_are_the_venues() -> None:
    events = span(BINANCE)
    trade = bodies(events, "btcusdt@trade")[0]
    assert list(trade) == ["stream", "data"]
    assert list(trade["data"]) == ["e", "E", "T", "s", "t", "p", "q", "X", "m", "st"]
    quote = bodies(events, "btcusdt@bookTicker")[0]["data"]
    assert list(quote) == ["e", "u", "s", "ps", "b", "B", "a", "A", "T", "E", "st"]
    aggregate = bodies(events, "btcusdt@aggTrade")[0]["data"]
    assert list(aggregate) == ["e", "E", "a", "s", "p", "q", "nq", "f", "l", "T", "m", "st"]


def test_okx_and_hyperliquid_fields_are_the_venues() -> None:
    okx = span(OKX)
    row = bodies(okx, "trades-all:BTC-USDT-SWAP")[0]["data"][0]
    assert list(row) == ["instId", "tradeId", "px", "sz", "side", "source", "ts"]
    row = bodies(okx, "trades:BTC-USDT-SWAP")[0]["data"][0]
    expected = ["instId", "tradeId", "px", "sz", "side", "ts", "count", "source", "seqId"]
    assert list(row) == expected
    book = bodies(okx, "bbo-tbt:BTC-USDT-SWAP")[0]["data"][0]
    assert list(book) == ["asks", "bids", "ts", "seqId"]
    fill = bodies(span(HYPERLIQUID), "trades:BTC")[0]["data"][0]
    assert list(fill) == ["coin", "side", "px", "sz", "time", "hash", "tid", "users"]
    assert len(fill["hash"]) == 66
    assert [len(user) for user in fill["users"]] == [42, 42]


def test_binance_ids_are_contiguous_and_aggregates_cover_the_trades() -> None:
    events = span(BINANCE, 2_000, intensity=5)
    trades = [body["data"] for body in bodies(events, "btcusdt@trade")]
    ids = [t["t"] for t in trades]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    aggregates = [body["data"] for body in bodies(events, "btcusdt@aggTrade")]
    assert [b["a"] - a["a"] for a, b in pairwise(aggregates)] == [1] * (len(aggregates) - 1)
    of_id = {t["t"]: t for t in trades}
    covered = set()
    for aggregate in aggregates:
        fills = [of_id[i] for i in range(aggregate["f"], aggregate["l"] + 1)]
        assert {f["p"] for f in fills} == {aggregate["p"]}
        assert {f["m"] for f in fills} == {aggregate["m"]}
        assert fills[0]["T"] == aggregate["T"]
        assert 100 <= aggregate["E"] - aggregate["T"] <= 1_000
        assert sum(float(f["q"]) for f in fills) == pytest.approx(float(aggregate["q"]))
        covered |= set(range(aggregate["f"], aggregate["l"] + 1))
    market = {t["t"] for t in trades if t["X"] == "MARKET" and t["t"] <= aggregates[-1]["l"]}
    assert covered == market


def test_binance_has_rows_that_are_no_trades() -> None:
    events = span(BINANCE, 3_000, intensity=20, natives=["BTCUSDT"], channels=["trade"])
    kinds = defaultdict(list)
    for body in bodies(events, "btcusdt@trade"):
        kinds[body["data"]["X"]].append(body["data"])
    assert set(kinds) == {"MARKET", "NA", "INSURANCE_FUND"}
    assert all((t["p"], t["q"]) == ("0", "0") for t in kinds["NA"])
    share = (len(kinds["NA"]) + len(kinds["INSURANCE_FUND"])) / len(events)
    assert share < 0.003


def test_okx_trades_are_the_fills_of_trades_all() -> None:
    events = span(OKX, 1_000, intensity=3)
    fills = [row for b in bodies(events, "trades-all:BTC-USDT-SWAP") for row in b["data"]]
    ids = [int(row["tradeId"]) for row in fills]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    prints = [row for b in bodies(events, "trades:BTC-USDT-SWAP") for row in b["data"]]
    ends = [int(row["tradeId"]) for row in prints]
    counts = [int(row["count"]) for row in prints]
    assert [b - n for b, n in zip(ends[1:], counts[1:], strict=True)] == ends[:-1]
    assert max(counts) > 2
    total = sum(float(row["sz"]) for row in fills if int(row["tradeId"]) <= ends[-1])
    assert sum(float(row["sz"]) for row in prints) == pytest.approx(total)


def test_hyperliquid_frames_are_blocks_with_unordered_ids() -> None:
    events = span(HYPERLIQUID, 1_000, intensity=3)
    frames = [body["data"] for body in bodies(events, "trades:BTC")]
    assert all(len({fill["time"] for fill in frame}) == 1 for frame in frames)
    assert max(len(frame) for frame in frames) > 5
    tids = [fill["tid"] for frame in frames for fill in frame]
    assert len(set(tids)) == len(tids)
    assert tids != sorted(tids)


def test_books_are_sometimes_one_sided() -> None:
    books = [b["data"]["bbo"] for b in bodies(span(HYPERLIQUID, 1_500, intensity=5), "bbo:BTC")]
    assert {(bid is None, ask is None) for bid, ask in books} == {
        (False, False),
        (True, False),
        (False, True),
    }
    books = [b["data"][0] for b in bodies(span(OKX, 2_000, intensity=5), "bbo-tbt:BTC-USDT-SWAP")]
    assert {(len(book["bids"]), len(book["asks"])) for book in books} == {(1, 1), (0, 1), (1, 0)}


@pytest.mark.parametrize("native", DEFAULT_NATIVES[BINANCE])
def test_prices_are_on_ticks_and_books_uncrossed(native: str) -> None:
    market = Market(7, BINANCE, start_ns=START)
    item = next(item for item in market.listings if item.native == native)
    events = span(BINANCE, 3_000)
    quotes = [b["data"] for b in bodies(events, f"{native.lower()}@bookTicker")]
    bid, ask = (np.array([float(q[side]) for q in quotes]) for side in "ba")
    spread = np.rint((ask - bid) / item.tick)
    assert spread.min() == 1
    assert np.allclose(bid / item.tick, np.rint(bid / item.tick), rtol=1e-9)
    trades = [b["data"] for b in bodies(events, f"{native.lower()}@trade")]
    size = np.array([float(t["q"]) for t in trades if t["X"] == "MARKET"])
    assert size.min() >= item.lot
    assert np.allclose(size / item.lot, np.rint(size / item.lot), rtol=1e-9)


def test_trades_are_at_or_through_the_last_quote() -> None:
    book = (0.0, 0.0)
    agree = total = 0
    for _, _, frame in span(BINANCE, 1_000, natives=["BTCUSDT"]):
        data = orjson.loads(frame)["data"]
        if data["e"] == "bookTicker":
            book = (float(data["b"]), float(data["a"]))
        elif data["e"] == "trade" and data["X"] == "MARKET" and book[0]:
            total += 1
            agree += float(data["p"]) <= book[0] if data["m"] else float(data["p"]) >= book[1]
    assert agree / total > 0.9  # pushes of the two streams cross by a millisecond now and then


def test_the_last_symbol_of_each_venue_is_quiet() -> None:
    for exchange in EXCHANGES:
        counts = Counter(native_of(exchange, key) for _, key, _ in span(exchange, 3_000))
        busy, *_, quiet = DEFAULT_NATIVES[exchange]
        assert 0 < counts[quiet] < counts[busy] / 30


def test_orders_come_in_bursts() -> None:
    events = span(BINANCE, 4_000, natives=["BTCUSDT"], channels=["trade"])
    seconds = Counter(time // 1_000_000_000 for time, _, _ in events)
    counts = np.array([seconds[START // 1_000_000_000 + s] for s in range(4_000)])
    assert counts.var() / counts.mean() > 3  # a Poisson process has 1


def test_venues_trade_around_the_same_prices() -> None:
    keys = {BINANCE: "btcusdt@bookTicker", OKX: "bbo-tbt:BTC-USDT-SWAP", HYPERLIQUID: "bbo:BTC"}
    paths = []
    for exchange, key in keys.items():
        mids: dict[int, float] = {}
        for time, of, frame in span(exchange, 1_500):
            if of == key:
                mids[(time - START) // 10_000_000_000] = _bid(exchange, orjson.loads(frame))
        paths.append([mids.get(k, np.nan) for k in range(150)])
    prices = np.array(paths)
    prices = prices[:, ~np.isnan(prices).any(axis=0)]
    assert np.ptp(np.log(prices), axis=0).max() < 3e-3
    assert np.corrcoef(prices).min() > 0.9


def _bid(exchange: str, body: Any) -> float:
    if exchange == BINANCE:
        return float(body["data"]["b"])
    if exchange == OKX:
        bids = body["data"][0]["bids"]
        return float(bids[0][0]) if bids else np.nan
    bid = body["data"]["bbo"][0]
    return float(bid["px"]) if bid else np.nan


def test_sizes_have_a_heavy_tail() -> None:
    trades = [
        body["data"]
        for body in bodies(span(BINANCE, 3_000, natives=["BTCUSDT"]), "btcusdt@trade")
        if body["data"]["X"] == "MARKET"
    ]
    notional = np.array([float(t["p"]) * float(t["q"]) for t in trades])
    assert 100 < np.median(notional) < 2_000
    assert notional.max() > 50 * np.median(notional)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, "mtgox"), "unknown exchange 'mtgox'"),
        ((1, BINANCE, ["NOPEUSDT"]), "'NOPEUSDT' on binance-futures; known: BTCUSDT"),
    ],
)
def test_what_is_not_listed_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Market(*arguments)


def test_an_unknown_channel_is_refused() -> None:
    with pytest.raises(ValueError, match="okx-perps has no channel books"):
        Market(1, OKX, channels=["books"])


def test_an_empty_market_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to simulate"):
        Market(1, OKX, [])
    with pytest.raises(ValueError, match="intensity 0"):
        Market(1, OKX, intensity=0)
