import math

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.instruments import OKX
from ingest.venues import Notice, okx
from tests.ingest.parsing import (
    ARRIVAL,
    columns,
    cryptofeed_frames,
    fixture_messages,
    instrument,
    parse_frames,
    parse_payloads,
)

BTC = instrument(OKX, "BTC-USDT-SWAP", contract_size=0.01)
INVERSE = instrument(OKX, "BTC-USD-SWAP", contract_size=100.0, inverse=True)

# EXCHANGES §2.2.
TRADES = (
    b'{"arg":{"channel":"trades","instId":"BTC-USDT-SWAP"},"data":[{"instId":"BTC-USDT-SWAP",'
    b'"tradeId":"2701364977","px":"64311","sz":"31.27","side":"buy","ts":"1781416584831",'
    b'"count":"8","source":"0","seqId":323647402789}]}'
)
FILL = {
    "instId": "BTC-USDT-SWAP",
    "tradeId": "2701364978",
    "px": "64310.5",
    "sz": "2",
    "side": "sell",
    "source": "0",
    "ts": "1781416584832",
}
BOOK = {
    "asks": [["111.06", "55154", "0", "2"]],
    "bids": [["111.05", "57745", "0", "2"]],
    "ts": "1670324386802",
    "seqId": 363996337,
}


def push(channel: str, *rows: object, native: str = "BTC-USDT-SWAP") -> bytes:
    return orjson.dumps({"arg": {"channel": channel, "instId": native}, "data": rows})


def changed(row: dict[str, object], **fields: object) -> dict[str, object]:
    """The row with fields replaced, those given as ... removed."""
    return {k: v for k, v in {**row, **fields}.items() if v is not ...}


def test_both_trade_channels_in_base_units() -> None:
    parsed = parse_payloads(
        [BTC], TRADES, push("trades-all", FILL, changed(FILL, tradeId="2701364979", side="buy"))
    )
    names = ("exchange_ts", "local_ts", "id", "count", "side", "price", "qty", "off_book", "row")
    assert columns(parsed.trades, names) == [
        (1781416584831_000000, ARRIVAL, 2701364977, 8, 1, 64311.0, 31.27 * 0.01, 0, 0),
        (1781416584832_000000, ARRIVAL + 1000, 2701364978, 1, -1, 64310.5, 2 * 0.01, 0, 1),
        (1781416584832_000000, ARRIVAL + 1000, 2701364979, 1, 1, 64310.5, 2 * 0.01, 0, 2),
    ]
    assert parsed.trades.notional.tolist() == (parsed.trades.price * parsed.trades.qty).tolist()
    assert (parsed.report.trades, parsed.report.frames, parsed.next_row) == (3, 2, 3)


def test_old_trades_without_a_count_are_one_fill() -> None:
    parsed = parse_payloads([BTC], push("trades", FILL))
    assert parsed.trades.count.tolist() == [1]


def test_inverse_contracts_are_dollars() -> None:
    native = INVERSE.native
    parsed = parse_payloads(
        [INVERSE],
        push("trades-all", FILL, native=native),
        push("bbo-tbt", BOOK, native=native),
    )
    assert parsed.trades.notional.tolist() == [200.0]
    assert parsed.trades.qty.tolist() == [200.0 / 64310.5]
    assert parsed.quotes.bid_qty.tolist() == [5774500.0 / 111.05]


def test_quotes_with_two_sides_one_or_none() -> None:
    parsed = parse_payloads(
        [BTC], push("bbo-tbt", BOOK), push("bbo-tbt", changed(BOOK, asks=[], seqId=...))
    )
    two, one = parsed.quotes.take(slice(0, 1)), parsed.quotes.take(slice(1, 2))
    names = ("exchange_ts", "sequence", "bid_price", "bid_qty", "ask_price", "ask_qty", "row")
    assert columns(two, names) == [
        (1670324386802_000000, 363996337, 111.05, 57745 * 0.01, 111.06, 55154 * 0.01, 0)
    ]
    assert columns(one, names[:4]) == [(1670324386802_000000, 0, 111.05, 57745 * 0.01)]
    assert math.isnan(one.ask_price[0])
    assert math.isnan(one.ask_qty[0])
    assert len(parse_payloads([BTC], push("bbo-tbt", changed(BOOK, asks=[], bids=[]))).quotes) == 1


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"arg":', "not JSON"),
        (b"ping", "not JSON"),
        (b"[]", "not an OKX frame"),
        (b"5", "not an OKX frame"),
        (b'{"arg":"trades","data":[]}', "not an OKX frame"),
        (b'{"arg":{"channel":"trades","instId":"BTC-USDT-SWAP"}}', "not an OKX frame"),
        (b'{"arg":{"channel":["trades"]},"data":[]}', "not an OKX frame"),
        (push("trades", None), "trades with a bad value"),
        (push("trades", {}), "trades without px"),
        (push("trades", changed(FILL, tradeId=...)), "trades without tradeId"),
        (push("trades-all", changed(FILL, px="NaN")), "trades with a bad value"),
        (push("trades", changed(FILL, px=1.5)), "trades with a bad value"),
        (push("trades", changed(FILL, sz="1e999")), "trades with a bad value"),
        (push("trades", changed(FILL, ts="0")), "trades with a bad value"),
        (push("trades", changed(FILL, ts="soon")), "trades with a bad value"),
        (push("trades", changed(FILL, count="0")), "trades with a bad value"),
        (push("trades", changed(FILL, side="B")), "trades with a bad value"),
        (push("trades", changed(FILL, side=["buy"])), "trades with a bad value"),
        (push("trades", changed(FILL, tradeId=str(2**63))), "trades with a bad value"),
        (push("bbo-tbt", changed(BOOK, bids=...)), "bbo-tbt without bids"),
        (push("bbo-tbt", changed(BOOK, bids=[[]])), "bbo-tbt of another shape"),
        (push("bbo-tbt", changed(BOOK, bids=[["1"]])), "bbo-tbt of another shape"),
        (push("bbo-tbt", changed(BOOK, asks=[["1", None]])), "bbo-tbt with a bad value"),
        (push("bbo-tbt", changed(BOOK, asks=[["inf", "1"]])), "bbo-tbt with a bad value"),
        (push("bbo-tbt", changed(BOOK, seqId="7")), "bbo-tbt with a bad value"),
        (push("bbo-tbt", changed(BOOK, ts=1670324386802)), "bbo-tbt with a bad value"),
    ],
)
def test_a_malformed_frame_costs_only_itself(payload: bytes, reason: str) -> None:
    parsed = parse_payloads([BTC], TRADES, payload, push("bbo-tbt", BOOK))
    assert parsed.report.malformed == {reason: 1}
    assert parsed.report.examples[reason] == (ARRIVAL + 1000, payload[:200])
    assert (parsed.trades.row.tolist(), parsed.quotes.row.tolist()) == ([0], [1])


def test_the_good_rows_of_a_frame_are_kept() -> None:
    parsed = parse_payloads([BTC], push("trades-all", FILL, changed(FILL, px="?"), 7, FILL))
    assert parsed.trades.row.tolist() == [0, 1]
    assert parsed.report.malformed == {"trades with a bad value": 2}


def test_unknown_instruments_and_other_channels_are_counted() -> None:
    parsed = parse_payloads(
        [BTC],
        push("trades", FILL, native="ETH-USDT-SWAP"),
        push("books", {}),
        b'{"code":"0","data":[],"msg":""}',
        b'{"event":"channel-conn-count","channel":"trades","connCount":"1","connId":"a4d3ae55"}',
    )
    assert parsed.report.unknown == {"ETH-USDT-SWAP": 1}
    assert parsed.report.ignored == 3
    assert not parsed.report.malformed


def test_events_become_notices() -> None:
    parsed = parse_payloads(
        [BTC],
        b'{"id":"1512","event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT-SWAP"},'
        b'"connId":"a4d3ae55"}',
        b'{"id":"1512","event":"error","code":"60012","msg":"Invalid request","connId":"a4d3ae55"}',
        b'{"event":"notice","code":"64008","msg":"The connection will soon be closed"}',
        b"pong",
    )
    assert parsed.report.notices == [
        Notice("ack", "trades", "BTC-USDT-SWAP", number="1512"),
        Notice("error", text="60012 Invalid request"),
        Notice("closing", text="64008 The connection will soon be closed"),
        Notice("pong"),
    ]
    assert not parsed.report.malformed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(where=st.sampled_from(["trades", "trades-all", "bbo-tbt"]), data=st.data())
def test_any_value_in_any_field_is_read_or_counted(where: str, data: st.DataObject) -> None:
    row = BOOK if where == "bbo-tbt" else FILL
    bad = {**row, data.draw(st.sampled_from(list(row))): data.draw(JSON)}
    parsed = parse_payloads([BTC], push(where, bad, row))
    assert len(parsed.trades) + len(parsed.quotes) + parsed.report.malformed.total() == 2


@settings(max_examples=200, deadline=None)
@given(message=st.dictionaries(st.sampled_from(["arg", "data", "event", "code"]), JSON) | JSON)
def test_any_message_is_read_or_counted(message: object) -> None:
    parsed = parse_payloads([BTC], orjson.dumps(message), TRADES)
    assert parsed.trades.row.tolist() == [0]
    counted = parsed.report.ignored + parsed.report.malformed.total()
    assert counted + len(parsed.report.notices) + parsed.report.unknown.total() == 1


def test_endpoints_use_both_paths_and_few_requests() -> None:
    instruments = [instrument(OKX, f"C{i}-USDT-SWAP") for i in range(500)]
    public, business = okx.endpoints(instruments)
    assert (public.path, business.path) == ("/ws/v5/public", "/ws/v5/business")
    assert (public.acks, len(public.subscribe)) == (500, 2)
    request = orjson.loads(business.subscribe[0])
    assert request["op"] == "subscribe"
    assert request["args"][0] == {"channel": "trades-all", "instId": "C0-USDT-SWAP"}
    assert max(len(m) for m in (*public.subscribe, *business.subscribe)) < 64_000

    (only,) = okx.endpoints([BTC], trades="trades")
    assert only.channels == (("bbo-tbt", BTC.native), ("trades", BTC.native))
    with pytest.raises(ValueError, match="aggTrade"):
        okx.endpoints([BTC], trades="aggTrade")


def test_recorded_trades_with_repeated_acks() -> None:
    instruments = [instrument(OKX, n) for n in ("UNI-USD-SWAP", "BTC-USDT", "BTC-USD-220527")]
    frames = list(cryptofeed_frames("okx/okx_cryptofeed_20220513.ws.gz"))
    parsed = parse_frames(instruments, frames)
    assert len(parsed.trades) == 74
    assert [n.kind for n in parsed.report.notices] == ["ack"] * 18
    assert parsed.report.ignored == 28 + 3 + 287  # tickers, books
    assert not parsed.report.malformed


def test_tardis_fixtures() -> None:
    messages = fixture_messages("okx/tardis_fixture_messages.jsonl")
    parsed = parse_payloads([BTC], *messages)
    # One trade (no count yet in 2021) and two bbo-tbt without seqId; the rest are other channels.
    assert columns(parsed.trades, ("id", "count", "price")) == [(148266905, 1, 48938.5)]
    assert columns(parsed.quotes, ("sequence", "bid_price")) == [(0, 38632.3)] * 2
    assert not parsed.report.malformed
