"""Each oddity that ../shared/data/MANIFEST.md names, and what becomes of it.

    INSURANCE_FUND print 2 % off the market   a tick marked off_book, in no bar
    print of price zero (X NA)                the same; its id is no gap
    bbo with one side only                    a quote whose other side is NaN
    trades replayed with the same tid         in a bar once, by the first arrival
    acks that are repeated                    answer nothing more
    book snapshots that come twice            a channel that is not collected, counted
    a first push that is hours old            a tick as it is: late on the exchange's clock
    exchange time stepping back               what order ticks come in changes no bar
    a local clock behind the exchange's       both stamps are kept as they are
    a backlog of 30 fills after subscribing   marked, and overlap proves that nothing is missing
    an outage without sequence numbers        a gap of unknown size, unless the backlog overlaps
    an aggregate of several fills             counts as many
    a spot bookTicker without a time          refused by name
    a recording in µs                         the same stamps in ns
    REST bodies among the frames              counted as not collected
    errors and throttling                     refused in the venue's words

The other pairs of the manifest are in tests/aggregate/test_exchange_candles.py, what each file
comes to in test_oddities_files.py.
"""

import csv
import gzip
import io
from collections import Counter

import numpy as np
import orjson
import pytest

from aggregate.intervals import EXCHANGE, TRUE
from aggregate.shard import END, Rules, ShardAggregator
from ingest.batches import Universe, trades_batch
from ingest.continuity import IdContinuity, continuity
from ingest.gaps import FILLS
from ingest.instruments import BINANCE, HYPERLIQUID, OKX, listed_from
from ingest.recording import read_frames
from ingest.ticks import BACKLOG, LIVE, Trades
from ingest.venues.common import TRADE_ROW
from tests.aggregate.helpers import bits, collect
from tests.ingest.parsing import (
    cryptofeed_frames,
    fixture_messages,
    instrument,
    parse_frames,
    parse_payloads,
    recorded,
)
from tests.ingest.payloads import FRAMES

NS = 1_000_000_000
BTC = instrument(BINANCE, "BTCUSDT")


def shard_of(exchange: str, trades: Trades, lateness_ns: int | None = None) -> ShardAggregator:
    shard = ShardAggregator(exchange, Rules(lateness_ns=lateness_ns, partial=True))
    shard.add(trades, "c1")
    return shard


def counts(exchange: str, trades: Trades, clock: str = EXCHANGE) -> int:
    """Trades in all the 1 m bars of a clock."""
    bars = collect(shard_of(exchange, trades).seal(clock, END))
    flow = [row for key, rows in bars.items() if key[0] == "flow" and key[2] == "1m"
            for row in rows.values()]  # fmt: skip
    return sum(int(row["taker_buy_count"] + row["taker_sell_count"]) for row in flow)


def hft(name: str, *natives: str) -> Trades:
    frames = [(ns, payload) for _, ns, payload in read_frames(recorded(f"binance/{name}"))]
    return parse_frames([instrument(BINANCE, n) for n in natives], frames).trades


def fills(name: str) -> Trades:
    """A CSV of Hyperliquid trades in the order of arrival."""
    with gzip.open(recorded(f"hyperliquid/{name}.csv.gz")) as file:
        lines = csv.DictReader(io.StringIO(file.read().decode()))
        rows = [
            TRADE_ROW.pack(
                *(0, int(line["exchange_timestamp"]), int(float(line["timestamp"]) * 1e6) * 1_000),
                *(int(line["trade_id"]), 1, 1 if line["side"] == "buy" else -1),
                *(float(line["price"]), float(line["size"]), LIVE, 0, i),
            )
            for i, line in enumerate(lines)
        ]
    return trades_batch(Universe([instrument(HYPERLIQUID, name.split("_")[-1])]), rows)


def test_an_insurance_fund_print_is_in_no_bar() -> None:
    trades = hft("usdm_ws_btcusdt_20230405.dat.gz", "BTCUSDT")
    [odd] = np.flatnonzero(trades.off_book)
    assert (trades.id[odd], trades.price[odd]) == (3535191080, 28722.50)
    minute = np.abs(trades.exchange_ts - trades.exchange_ts[odd]) < 60 * NS
    market = trades.take(minute & (trades.off_book == 0)).price
    assert abs(trades.price[odd] / market.mean() - 1) > 0.015
    assert counts(BINANCE, trades) == len(trades) - 1
    bars = collect(shard_of(BINANCE, trades).seal(EXCHANGE, END))
    ohlcv = [rows for key, rows in bars.items() if key[0] == "ohlcv" and key[2] == "1s"]
    extremes = {row[name] for rows in ohlcv for row in rows.values() for name in ("high", "low")}
    assert 28722.50 not in extremes
    assert continuity(BINANCE).check(trades) is None  # its id is one of the sequence's


def test_a_print_of_price_zero_is_in_no_bar_and_no_gap() -> None:
    frame = orjson.loads(FRAMES[BINANCE][1])
    ids = {**frame, "t": frame["t"] + 1, "X": "NA", "p": "0", "q": "0"}, {**frame, "t": 8097313957}
    trades = parse_payloads([BTC], frame, *ids).trades
    assert trades.price.tolist() == [80227.0, 0.0, 80227.0]
    assert trades.off_book.tolist() == [0, 1, 0]
    checks = IdContinuity()
    assert checks.check(trades) is None
    assert checks.due() == []
    assert counts(BINANCE, trades) == 2


def test_a_bbo_with_one_side_has_no_other() -> None:
    messages = fixture_messages("hyperliquid/tardis_fixture_messages.jsonl")
    [one] = [m for m in messages if b'"bbo"' in m and b'"BTC"' in m]
    quotes = parse_payloads([instrument(HYPERLIQUID, "BTC")], one).quotes
    assert quotes.bid_price.tolist() == [107575.0]
    assert np.isnan([*quotes.ask_price, *quotes.ask_qty]).all()


@pytest.mark.parametrize(
    ("name", "rows", "copies"),
    [
        ("20250904_trades_BTC", 6675, 0),
        ("20250904_trades_SOL", 4437, 10),
        ("20250904_trades_WLFI", 2563, 8),
        ("20250903_trades_BTC", 1497, 30),
        ("20250903_trades_ETH", 782, 1),
    ],
)
def test_replayed_trades_are_in_bars_once(name: str, rows: int, copies: int) -> None:
    trades = fills(name)
    assert len(trades) == rows
    assert rows - len(np.unique(trades.id)) == copies
    for clock in (EXCHANGE, TRUE):
        assert counts(HYPERLIQUID, trades, clock) == rows - copies
    shard = shard_of(HYPERLIQUID, trades)
    shard.seal(EXCHANGE, END)
    assert shard.dropped[EXCHANGE, "trades", "duplicate"] == copies


@pytest.mark.parametrize("name", ["20250904_trades_SOL", "20250904_trades_WLFI"])
def test_exchange_time_that_steps_back_changes_no_bar(name: str) -> None:
    trades = fills(name)
    assert (np.diff(trades.exchange_ts) < 0).any()
    straight = trades.take(np.argsort(trades.exchange_ts, kind="stable"))
    bars = [collect(shard_of(HYPERLIQUID, t).seal(EXCHANGE, END)) for t in (trades, straight)]
    assert bits(bars[0]) == bits(bars[1])


def test_repeated_acks_are_told_as_they_come() -> None:
    """That they answer nothing more is in test_subscriptions.py."""
    frames = list(cryptofeed_frames("okx/okx_cryptofeed_20220513.ws.gz"))
    names = ("UNI-USD-SWAP", "BTC-USDT", "BTC-USD-220527")
    parsed = parse_frames([instrument(OKX, name) for name in names], frames)
    acks = Counter((n.channel, n.native) for n in parsed.report.notices)
    assert (acks.total(), len(acks)) == (18, 9)
    assert len(parsed.trades) == 74


def test_double_snapshots_are_counted_and_left() -> None:
    frames = list(cryptofeed_frames("okx/okx_cryptofeed_20220227.ws.gz"))
    snapshots = [payload for _, payload in frames if b'"action":"snapshot"' in payload]
    names = {orjson.loads(payload)["arg"]["instId"] for payload in snapshots}
    assert (len(snapshots), len(names)) == (20, 10)
    report = parse_frames([instrument(OKX, "UNI-USD-SWAP")], [(0, p) for p in snapshots]).report
    assert (report.ignored, report.trades + report.quotes) == (20, 0)


def test_a_first_push_that_is_hours_old_is_late() -> None:
    frames = list(cryptofeed_frames("okx/okx_cryptofeed_20220227.ws.gz"))
    traded = [orjson.loads(p) for _, p in frames if b'"data"' in p and b'"trades"' in p[:60]]
    instruments = [instrument(OKX, name) for name in {m["arg"]["instId"] for m in traded}]
    trades = parse_frames(instruments, frames).trades
    age = trades.local_ts - trades.exchange_ts
    assert age.max() > 7 * 3600 * NS
    assert set(trades.origin) == {LIVE}
    shard = shard_of(OKX, trades, lateness_ns=5 * NS)
    shard.seal(EXCHANGE, END)
    second_over = (trades.exchange_ts // NS + 1) * NS + 5 * NS
    assert shard.dropped[EXCHANGE, "trades", "late"] == (trades.local_ts >= second_over).sum() > 0
    assert counts(OKX, trades, TRUE) == trades.count.sum()


def test_a_local_clock_that_is_behind_is_kept_as_it_is() -> None:
    trades = hft("usdm_ws_btcusdt_20240719.gz", "BTCUSDT")
    lag_ms = np.median(trades.local_ts - trades.exchange_ts) / 1e6
    assert -1_600 < lag_ms < -1_450
    assert counts(BINANCE, trades) == len(trades)


def test_the_backlog_after_subscribing_is_marked_and_proves_that_nothing_is_missing() -> None:
    path = recorded("hyperliquid/ws_raw_btc_20250126.gz")
    frames = [(ns, payload) for _, ns, payload in read_frames(path)]
    trades = parse_frames([instrument(HYPERLIQUID, "BTC")], frames).trades
    backlog = trades.take(trades.origin == BACKLOG)
    assert len(backlog) == 30
    age = backlog.local_ts - backlog.exchange_ts
    assert 40 * NS < age.max() < 50 * NS
    # The same subscription again: its backlog holds fills that were seen before, or it doesn't.
    for seen, gaps in ((backlog, 0), (backlog.take(slice(0, 0)), 0), (other(backlog), 1)):
        checks = continuity(HYPERLIQUID)
        if len(seen):
            checks.check(seen)
        checks.check(backlog)
        assert [gap.kind for gap in checks.due()] == [FILLS] * gaps


def other(trades: Trades) -> Trades:
    """Other fills, of an hour before."""
    moved = trades.take(slice(None))
    moved.id, moved.origin = moved.id + 1, np.full(len(moved), LIVE, np.int8)
    moved.exchange_ts, moved.local_ts = moved.exchange_ts - 3600 * NS, moved.local_ts - 3600 * NS
    return moved


def test_an_outage_is_seen_in_what_came_after_it() -> None:
    """20250903: 250 s without a fill, then the 30 that are replayed: they overlap."""
    trades = fills("20250903_trades_BTC")
    at = int(np.argmax(np.diff(trades.local_ts))) + 1
    assert 240 * NS < trades.local_ts[at] - trades.local_ts[at - 1] < 260 * NS
    before = trades.take(slice(0, at))
    after = trades.take(slice(at, at + 30))
    after.origin[:] = BACKLOG
    after.local_ts[:] = after.local_ts[0]  # of one frame
    checks = continuity(HYPERLIQUID)
    checks.check(before)
    checks.check(after)
    overlap = np.isin(after.id, before.id).any()
    assert len(checks.due()) == (0 if overlap else 1)


def test_an_aggregate_counts_its_fills() -> None:
    frames = list(cryptofeed_frames("binance/usdm_cryptofeed_20210417.ws.gz"))
    natives = ("DENTUSDT", "KSMUSDT", "XMRUSDT", "YFIUSDT")
    trades = parse_frames([instrument(BINANCE, n) for n in natives], frames).trades
    assert len(trades) == 185 < trades.count.sum()
    assert counts(BINANCE, trades) == trades.count.sum()


def test_a_spot_book_ticker_is_refused_by_name() -> None:
    spot = FRAMES[BINANCE][-1]
    assert parse_payloads([BTC], spot).report.malformed == {"bookTicker without E": 1}


def test_a_recording_in_microseconds_has_nanoseconds() -> None:
    trades = hft("usdm_ws_btcusdt_20230404.dat.gz", "BTCUSDT")
    lag_ms = (trades.local_ts - trades.exchange_ts) / 1e6
    assert -40 < lag_ms.min() < 0 < lag_ms.max() < 700


def test_a_rest_snapshot_among_the_frames_is_counted() -> None:
    path = recorded("binance/usdm_ws_btcusdt_20240718.gz")
    rest = [(ns, p) for _, ns, p in read_frames(path) if b'"stream"' not in p[:20]]
    assert len(rest) == 1
    assert parse_frames([BTC], rest).report.ignored == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("okx/swap_unknown.json", "code '51001'"),
        ("okx/history-candles__bar-2s_instId-BTC-USDT-SWAP_limit-1.json", "Parameter bar error"),
    ],
)
def test_errors_are_refused_in_the_venues_words(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        listed_from(OKX, orjson.loads(recorded(name).read_bytes()))
