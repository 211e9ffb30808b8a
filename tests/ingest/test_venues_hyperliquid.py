import math
from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.instruments import HYPERLIQUID
from ingest.recorder import read_frames
from ingest.ticks import BACKLOG, LIVE
from ingest.venues import Notice, ParserState, hyperliquid
from tests.ingest.parsing import (
    ARRIVAL,
    columns,
    fixture_messages,
    instrument,
    parse_frames,
    parse_payloads,
    recorded,
)

BTC = instrument(HYPERLIQUID, "BTC")
ETH = instrument(HYPERLIQUID, "ETH")

# EXCHANGES §3.1.
FILL = {
    "coin": "BTC",
    "side": "B",
    "px": "64411.0",
    "sz": "0.31377",
    "time": 1781416943647,
    "hash": "0x7f58",
    "tid": 828642708897583,
    "users": ["0xe9be", "0xf910"],
}
BBO = (
    b'{"channel":"bbo","data":{"coin":"BTC","time":1750948919838,'
    b'"bbo":[{"px":"107575.0","sz":"3.87947","n":17},null]}}'
)
SIDE = {"px": "107576.0", "sz": "1.5", "n": 2}


def trades(*fills: object) -> bytes:
    return orjson.dumps({"channel": "trades", "data": fills})


def bbo(*sides: object, **fields: object) -> bytes:
    data = {"coin": "BTC", "time": 1750948919838, "bbo": sides, **fields}
    return orjson.dumps({"channel": "bbo", "data": {k: v for k, v in data.items() if v is not ...}})


def ack(coin: str, channel: str = "trades", method: str = "subscribe") -> bytes:
    subscription = {"type": channel, "coin": coin, "nSigFigs": None, "fast": False}
    data = {"method": method, "subscription": subscription}
    return orjson.dumps({"channel": "subscriptionResponse", "data": data})


def changed(**fields: object) -> dict[str, object]:
    return {k: v for k, v in {**FILL, **fields}.items() if v is not ...}


def test_trades_and_quotes() -> None:
    parsed = parse_payloads([BTC], trades(FILL, changed(side="A", tid=5)), BBO)
    names = ("exchange_ts", "local_ts", "id", "count", "side", "price", "qty", "off_book", "row")
    assert columns(parsed.trades, names) == [
        (1781416943647_000000, ARRIVAL, 828642708897583, 1, 1, 64411.0, 0.31377, 0, 0),
        (1781416943647_000000, ARRIVAL, 5, 1, -1, 64411.0, 0.31377, 0, 1),
    ]
    names = ("exchange_ts", "local_ts", "sequence", "bid_price", "bid_qty", "row")
    assert columns(parsed.quotes, names) == [
        (1750948919838_000000, ARRIVAL + 1000, 0, 107575.0, 3.87947, 2)
    ]
    assert math.isnan(parsed.quotes.ask_price[0])
    assert math.isnan(parsed.quotes.ask_qty[0])


@pytest.mark.parametrize(
    ("payload", "bid", "ask"),
    [
        (bbo(SIDE, {**SIDE, "px": "107577.0"}), 107576.0, 107577.0),
        (bbo(None, SIDE), math.nan, 107576.0),
        (bbo(SIDE), 107576.0, math.nan),
        (bbo(), math.nan, math.nan),
        (bbo(bbo=None), math.nan, math.nan),
    ],
)
def test_sides_may_be_missing(payload: bytes, bid: float, ask: float) -> None:
    quotes = parse_payloads([BTC], payload).quotes
    assert quotes.bid_price.tolist() == pytest.approx([bid], nan_ok=True)
    assert quotes.ask_price.tolist() == pytest.approx([ask], nan_ok=True)


def test_the_first_trades_frame_of_each_subscription_is_backlog() -> None:
    eth = changed(coin="ETH")
    parsed = parse_payloads(
        [BTC, ETH],
        ack("BTC"),
        ack("ETH"),
        trades(FILL, FILL),
        trades(FILL),
        trades(eth),
        BBO,
        trades(eth, eth),
        ack("ETH", "bbo"),  # another channel's
        ack("ETH", method="unsubscribe"),
        trades(eth),
        ack("BTC"),  # resubscribed
        trades(FILL),
        trades(FILL),
    )
    assert columns(parsed.trades, ("code", "origin")) == [
        *[(0, BACKLOG)] * 2,
        (0, LIVE),
        (1, BACKLOG),
        *[(1, LIVE)] * 3,
        (0, BACKLOG),
        (0, LIVE),
    ]
    assert parsed.report.notices[0] == Notice("ack", "trades", "BTC")
    assert len(parsed.report.notices) == 4


def test_empty_or_malformed_frames_do_not_end_the_backlog() -> None:
    parsed = parse_payloads([BTC], trades(), trades(changed(px="?")), trades(FILL), trades(FILL))
    assert parsed.trades.origin.tolist() == [BACKLOG, LIVE]


events = st.lists(
    st.sampled_from(
        [
            ack("BTC"),
            ack("ETH"),
            trades(FILL),
            trades(FILL, FILL),
            trades(changed(coin="ETH")),
            trades(FILL, changed(coin="ETH")),
            BBO,
        ]
    ),
    max_size=20,
)


@settings(max_examples=200, deadline=None)
@given(payloads=events, cuts=st.lists(st.integers(0, 20), max_size=4))
def test_chunks_settled_in_order_equal_one_pass(payloads: list[bytes], cuts: list[int]) -> None:
    frames = [(ARRIVAL + i, payload) for i, payload in enumerate(payloads)]
    whole = parse_frames([BTC, ETH], frames)

    bounds = [0, *sorted(min(cut, len(frames)) for cut in cuts), len(frames)]
    state = ParserState()
    origins: list[int] = []
    row = 0
    for start, end in pairwise(bounds):
        chunk_state = ParserState()
        chunk = parse_frames([BTC, ETH], frames[start:end], row=row, state=chunk_state)
        row = chunk.next_row
        trade = chunk.trades
        for native, first, last in state.settle(chunk_state):
            code = ("BTC", "ETH").index(native)
            live = (trade.code == code) & (trade.row >= first) & (trade.row < last)
            trade.origin[live] = LIVE
        origins += trade.origin.tolist()
    assert origins == whole.trades.origin.tolist()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"Websocket connection lost.", "not JSON"),
        (b"[]", "not a Hyperliquid frame"),
        (b"{}", "not a Hyperliquid frame"),
        (b'{"channel":"trades","data":null}', "not a Hyperliquid frame"),
        (b'{"channel":"subscriptionResponse","data":{}}', "not a Hyperliquid frame"),
        (trades(None), "trades with a bad value"),
        (trades({}), "trades without coin"),
        (trades(changed(px=...)), "trades without px"),
        (trades(changed(px=64411.0)), "trades with a bad value"),
        (trades(changed(sz="-inf")), "trades with a bad value"),
        (trades(changed(side="C")), "trades with a bad value"),
        (trades(changed(side=[])), "trades with a bad value"),
        (trades(changed(tid="5")), "trades with a bad value"),
        (trades(changed(time=1781416943.647)), "trades with a bad value"),
        (trades(changed(coin=["BTC"])), "trades with a bad value"),
        (trades(changed(coin=None)), "trades with a bad value"),
        (bbo(bbo=...), "bbo without bbo"),
        (bbo({"px": "1"}), "bbo without sz"),
        (bbo({"px": "1", "sz": "x"}), "bbo with a bad value"),
        (bbo(1), "bbo with a bad value"),
        (bbo(SIDE, time=True), "bbo with a bad value"),
        (bbo(SIDE, time=1781416943647.0), "bbo with a bad value"),
    ],
)
def test_a_malformed_frame_costs_only_itself(payload: bytes, reason: str) -> None:
    parsed = parse_payloads([BTC], trades(FILL), payload, BBO)
    assert parsed.report.malformed == {reason: 1}
    assert parsed.report.examples[reason] == (ARRIVAL + 1000, payload[:200])
    assert (parsed.trades.row.tolist(), parsed.quotes.row.tolist()) == ([0], [1])


def test_the_good_rows_of_a_frame_are_kept() -> None:
    parsed = parse_payloads([BTC], trades(FILL, changed(px=None), changed(coin="SOL"), FILL))
    assert parsed.trades.row.tolist() == [0, 1]
    assert parsed.report.malformed == {"trades with a bad value": 1}
    assert parsed.report.unknown == {"SOL": 1}


def test_other_frames() -> None:
    parsed = parse_payloads(
        [BTC],
        b"Websocket connection established.",
        b'{"channel":"pong"}',
        b'{"channel":"error","data":"Invalid subscription"}',
        b'{"channel":"l2Book","data":{"coin":"BTC","time":1,"levels":[[],[]]}}',
    )
    assert parsed.report.notices == [Notice("pong"), Notice("error", text="Invalid subscription")]
    assert parsed.report.ignored == 2
    assert not parsed.report.malformed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(field=st.sampled_from(list(FILL)), value=JSON)
def test_any_value_in_any_field_is_read_or_counted(field: str, value: object) -> None:
    parsed = parse_payloads([BTC], trades(changed(**{field: value}), FILL))
    counted = parsed.report.malformed.total() + parsed.report.unknown.total()
    assert len(parsed.trades) + counted == 2


@settings(max_examples=300, deadline=None)
@given(
    channel=st.sampled_from(["trades", "bbo", "subscriptionResponse", "error", "pong"]) | JSON,
    data=JSON | st.dictionaries(st.sampled_from(["coin", "time", "bbo", "subscription"]), JSON),
)
def test_any_message_is_read_or_counted(channel: object, data: object) -> None:
    payload = orjson.dumps({"channel": channel, "data": data})
    parsed = parse_payloads([BTC], payload, BBO)
    assert parsed.quotes.row[-1] == parsed.next_row - 1
    assert parsed.report.frames == 2


def test_endpoints_subscribe_one_by_one() -> None:
    (endpoint,) = hyperliquid.endpoints([BTC, instrument(HYPERLIQUID, "xyz:TSLA")])
    assert endpoint.path == "/ws"
    assert endpoint.acks == len(endpoint.subscribe) == 4
    assert orjson.loads(endpoint.subscribe[3]) == {
        "method": "subscribe",
        "subscription": {"type": "trades", "coin": "xyz:TSLA"},
    }
    assert hyperliquid.endpoints([]) == []
    with pytest.raises(ValueError, match="aggTrade"):
        hyperliquid.endpoints([BTC], trades="aggTrade")


def test_a_recording_starts_with_a_backlog_of_thirty() -> None:
    path = recorded("hyperliquid/ws_raw_btc_20250126.gz")
    frames = [(ns, payload) for _, ns, payload in read_frames(path)]
    parsed = parse_frames([BTC], frames)
    assert parsed.trades.origin.tolist() == [BACKLOG] * 30 + [LIVE] * 34
    assert len(set(parsed.trades.id.tolist())) == 64
    assert parsed.report.ignored == 46  # l2Book
    assert not parsed.report.malformed


def test_fixtures() -> None:
    instruments = [instrument(HYPERLIQUID, n) for n in ("BTC", "FXS")]
    parsed = parse_payloads(
        instruments, *fixture_messages("hyperliquid/tardis_fixture_messages.jsonl")
    )
    assert len(parsed.trades) == 6
    assert columns(parsed.quotes, ("bid_price", "bid_qty")) == [(107575.0, 3.87947)]
    assert parsed.report.unknown == {"@162": 1}
    assert not parsed.report.malformed

    small = recorded("hyperliquid/ws_small_frames_20260916.jsonl").read_bytes().splitlines()
    parsed = parse_payloads([BTC], *small)
    assert columns(parsed.quotes, ("bid_price", "ask_price")) == [(75951.0, 75952.0)]
    assert [n.kind for n in parsed.report.notices] == ["ack", "pong"]
