"""Bars against the exchanges' own candles: USD-M klines of a capture, OKX's REST candles.

The pairs of ../shared/data/MANIFEST.md. The third, spot klines, is in
tests/end_to_end/test_replay_recordings.py, as it goes through `replay`.
"""

import csv
import io
import json
import zipfile
from collections import defaultdict

import pytest

from aggregate.intervals import EXCHANGE
from aggregate.shard import END, Rules, ShardAggregator
from ingest.batches import Universe, trades_batch
from ingest.instruments import instrument_by_name, instruments_from
from ingest.venues.common import TRADE_ROW
from tests.aggregate.helpers import collect
from tests.ingest.parsing import cryptofeed_frames, parse_frames, recorded

BINANCE, OKX = "binance-futures", "okx-perps"
CAPTURED = ("DENTUSDT", "KSMUSDT", "XMRUSDT", "YFIUSDT")


def bars_of(exchange, trades):
    """{(dataset, symbol, interval, clock): {start_s: columns}} of a batch, every window."""
    shard = ShardAggregator(exchange, Rules(lateness_ns=None, partial=True))
    shard.add(trades, "c1")
    return collect(shard.seal(EXCHANGE, END))


@pytest.fixture(scope="module")
def capture():
    """Half a minute of USD-M aggTrades and klines, by symbol, and the aggTrades' batch."""
    instruments = [instrument_by_name(BINANCE, native) for native in CAPTURED]
    frames = list(cryptofeed_frames("binance/usdm_cryptofeed_20210417.ws.gz"))
    trades = parse_frames(instruments, frames).trades
    klines = defaultdict(list)
    for _, payload in frames:
        data = json.loads(payload)["data"]
        if data["e"] == "kline":
            klines[data["s"]].append(data["k"])
    return trades, klines


def between(trades, code, first, last):
    """The instrument's aggTrades that hold fills after id `first` and none after `last`."""
    mine = trades.code == code
    return trades.take(mine & (trades.id - trades.count + 1 > first) & (trades.id <= last))


@pytest.mark.parametrize("native", CAPTURED)
def test_aggtrades_between_two_klines_are_what_the_minute_grew_by(capture, native):
    """The capture has no minute whole: a bar of what came between is compared with the growth.

    An open kline can cut an aggTrade in two (manifest, pair 2); those klines are left out, and
    the others show that n counts the fills f..l, not aggTrades.
    """
    trades, klines = capture
    code = CAPTURED.index(native)
    ends = set(trades.id[trades.code == code].tolist())
    whole = [k for k in klines[native] if k["L"] in ends]
    begin, rest = whole[0], whole[1:]
    assert len(rest) >= 8
    for kline in rest:
        part = between(trades, code, begin["L"], kline["L"])
        minute = kline["t"] // 1000
        made = bars_of(BINANCE, part)
        symbol = trades.symbols[code]
        flow, ohlcv = (made[d, symbol, "1m", EXCHANGE] for d in ("flow", "ohlcv"))
        assert list(flow) == list(ohlcv) == [minute]
        flow, ohlcv = flow[minute], ohlcv[minute]
        count = flow["taker_buy_count"] + flow["taker_sell_count"]
        assert count == kline["n"] - begin["n"] == kline["L"] - begin["L"]
        grown = {name: float(kline[name]) - float(begin[name]) for name in "vqVQ"}
        size = float(kline["q"])
        buckets = sum(flow[f"taker_buy_{s}_order_volume"] for s in ("small", "medium", "large"))
        assert ohlcv["volume"] == pytest.approx(grown["v"], abs=1e-12 * float(kline["v"]))
        assert ohlcv["volume_notional"] == pytest.approx(grown["q"], abs=1e-12 * size)
        assert flow["taker_buy_volume"] == pytest.approx(grown["V"], abs=1e-12 * float(kline["v"]))
        assert buckets == pytest.approx(grown["Q"], abs=1e-12 * size)
        assert ohlcv["close"] == float(kline["c"])
        assert max(ohlcv["high"], float(begin["h"])) == float(kline["h"])
        assert min(ohlcv["low"], float(begin["l"])) == float(kline["l"])


def test_the_capture_tells_fills_from_aggtrades(capture):
    trades, _ = capture
    assert len(trades) == 185
    assert int(trades.count.sum()) > 185


def test_an_open_kline_can_cut_an_aggtrade(capture):
    """Why n is no bar's count while the minute is open: it ends between the fills of one print."""
    trades, klines = capture
    first, last = (trades.id - trades.count + 1).tolist(), trades.id.tolist()
    cut = [
        (native, kline["L"])
        for code, native in enumerate(CAPTURED)
        for kline in klines[native]
        for c, low, high in zip(trades.code.tolist(), first, last, strict=True)
        if c == code and low <= kline["L"] < high
    ]
    assert cut


@pytest.fixture(scope="module")
def okx_bars():
    """OHLCV of the three archives, by minute (s); the contract is 10 USDC."""
    payload = json.loads(recorded("okx/swap_USDC-USDT-SWAP.json").read_bytes())
    [instrument] = instruments_from(OKX, payload)
    rows = []
    for day in (26, 27, 28):
        name = f"USDC-USDT-SWAP-trades-2026-09-{day}"
        with zipfile.ZipFile(recorded(f"okx/{name}.zip")) as archive:
            lines = io.StringIO(archive.read(f"{name}.csv").decode())
        for trade in csv.DictReader(lines):
            ms = int(trade["created_time"])
            side = 1 if trade["side"] == "buy" else -1
            price, size = float(trade["price"]), float(trade["size"])
            row = (0, ms, ms * 1_000_000, int(trade["trade_id"]), 1, side, price, size, 0, 0)
            rows.append(TRADE_ROW.pack(*row, len(rows)))
    trades = trades_batch(Universe([instrument]), rows)
    assert len(trades) == 276 + 242 + 1134
    made = bars_of(OKX, trades)
    return instrument, made["ohlcv", instrument.symbol, "1m", EXCHANGE]


def okx_candles():
    """[start ms, open, high, low, close, contracts, base units, quote units] of each minute."""
    every = {}
    for page in ("1790567940000", "1790585940000", "1790603940000"):
        name = f"after-{page}_bar-1m_before-1790553539999_instId-USDC-USDT-SWAP_limit-300.json"
        for row in json.loads(recorded(f"okx/history-candles__{name}").read_bytes())["data"]:
            every[int(row[0])] = [float(value) for value in row[1:8]]
    return every


def test_okx_minutes_equal_the_exchanges_candles(okx_bars):
    instrument, bars = okx_bars
    candles = okx_candles()
    assert len(candles) == 840
    traded = {ms: candle for ms, candle in candles.items() if candle[4] > 0}
    assert len(traded) == 215
    for ms, (open_, high, low, close, contracts, base, quote) in traded.items():
        bar = bars[ms // 1000]
        assert [bar[name] for name in ("open", "high", "low", "close")] == [open_, high, low, close]
        assert bar["volume"] / instrument.contract_size == pytest.approx(contracts, rel=1e-12)
        assert bar["volume"] == pytest.approx(base, rel=1e-12)
        assert bar["volume_notional"] == pytest.approx(quote, rel=1e-9)


def test_okx_minutes_without_a_trade_have_no_bar(okx_bars):
    _, bars = okx_bars
    candles = okx_candles()
    low, high = min(candles) // 1000, max(candles) // 1000
    made = {start for start in bars if low <= start <= high}
    assert made == {ms // 1000 for ms, candle in candles.items() if candle[4] > 0}
