import gzip
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.instruments import BINANCE
from ingest.recorder import read_frames
from ingest.ticks import LIVE
from ingest.venues import Notice, ParseReport, Route, Row, binance
from tests.ingest.parsing import (
    ARRIVAL,
    columns,
    cryptofeed_frames,
    fixture_messages,
    instrument,
    parse_frames,
    parse_payloads,
    recorded,
)

BTC = instrument(BINANCE, "BTCUSDT")

# EXCHANGES §1.2, wire captures.
TRADE = (
    b'{"e":"trade","E":1789893896920,"T":1789893896919,"s":"BTCUSDT","t":8097313955,'
    b'"p":"80227.00","q":"0.010","X":"MARKET","m":true,"st":1}'
)
AGG_TRADE = (
    b'{"e":"aggTrade","E":1791269849801,"a":3476312671,"s":"BTCUSDT","p":"85299.90","q":"0.004",'
    b'"nq":"0.004","f":8149080390,"l":8149080393,"T":1791269849651,"m":false,"st":1}'
)
BOOK_TICKER = (
    b'{"e":"bookTicker","u":11331904350110,"s":"BTCUSDT","ps":"BTCUSDT","b":"72009.00",'
    b'"B":"3.065","a":"72009.10","A":"2.180","T":1787231293914,"E":1787231293915,"st":1}'
)

TRADE_COLUMNS = (
    "exchange_ts",
    "local_ts",
    "id",
    "count",
    "side",
    "price",
    "qty",
    "off_book",
    "row",
)
QUOTE_COLUMNS = (
    "exchange_ts",
    "local_ts",
    "sequence",
    "bid_price",
    "bid_qty",
    "ask_price",
    "ask_qty",
    "row",
)


def combined(payload: bytes, stream: bytes = b"btcusdt@x") -> bytes:
    return b'{"stream":"' + stream + b'","data":' + payload + b"}"


def changed(payload: bytes, **fields: object) -> bytes:
    """The payload with fields replaced, those given as ... removed."""
    body = {**orjson.loads(payload), **fields}
    return orjson.dumps({k: v for k, v in body.items() if v is not ...})


@pytest.mark.parametrize("wrap", [combined, bytes])
def test_the_three_channels_combined_and_raw(wrap: Callable[[bytes], bytes]) -> None:
    parsed = parse_payloads([BTC], wrap(TRADE), wrap(BOOK_TICKER), wrap(AGG_TRADE))
    assert columns(parsed.trades, TRADE_COLUMNS) == [
        (1789893896919_000000, ARRIVAL, 8097313955, 1, -1, 80227.0, 0.01, 0, 0),
        (1791269849651_000000, ARRIVAL + 2000, 8149080393, 4, 1, 85299.9, 0.004, 0, 2),
    ]
    assert columns(parsed.quotes, QUOTE_COLUMNS) == [
        (1787231293915_000000, ARRIVAL + 1000, 11331904350110, 72009.0, 3.065, 72009.1, 2.18, 1)
    ]
    assert set(parsed.trades.origin) == {LIVE}
    assert parsed.next_row == 3
    assert (parsed.report.frames, parsed.report.trades, parsed.report.quotes) == (3, 2, 1)
    assert not parsed.report.malformed


@pytest.mark.parametrize(
    ("kind", "off_book"), [("MARKET", 0), ("INSURANCE_FUND", 1), ("ADL", 1), ("NA", 1), (..., 0)]
)
def test_prints_that_are_not_market_trades_are_marked(kind: object, off_book: int) -> None:
    parsed = parse_payloads([BTC], changed(TRADE, X=kind))
    assert parsed.trades.off_book.tolist() == [off_book]


def test_filler_rows_of_size_zero_are_kept() -> None:
    parsed = parse_payloads([BTC], changed(TRADE, X="NA", p="0", q="0"))
    assert (parsed.trades.price.tolist(), parsed.trades.off_book.tolist()) == ([0.0], [1])


def test_the_spot_book_ticker_has_no_exchange_time() -> None:
    spot = b'{"u":50093239212,"s":"BTCUSDT","b":"61837.63","B":"3.78","a":"61837.64","A":"1.54"}'
    parsed = parse_payloads([BTC], combined(spot), changed(BOOK_TICKER, E=...))
    assert parsed.report.malformed == {"bookTicker without E": 2}
    assert parsed.report.examples["bookTicker without E"] == (ARRIVAL, combined(spot))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"e":"trade","E":17', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1,2]", "not a Binance frame"),
        (b'"text"', "not a Binance frame"),
        (b'{"data":null}', "not a Binance frame"),
        (b'{"e":["trade"]}', "not a Binance frame"),
        (b'{"e":"other","error":5}', "not a Binance frame"),  # reasons are bounded
        (changed(TRADE, p=...), "trade without p"),
        (changed(TRADE, s=...), "trade without s"),
        (changed(TRADE, p="nan"), "trade with a bad value"),
        (changed(TRADE, p="inf"), "trade with a bad value"),
        (changed(TRADE, p="1_0"), "trade with a bad value"),
        (changed(TRADE, p=""), "trade with a bad value"),
        (changed(TRADE, q=True), "trade with a bad value"),
        (changed(TRADE, q=["1"]), "trade with a bad value"),
        (changed(TRADE, t=-1), "trade with a bad value"),
        (changed(TRADE, t=2**63), "trade with a bad value"),
        (changed(TRADE, T=1789893896919.5), "trade with a bad value"),
        (changed(TRADE, T=0), "trade with a bad value"),
        (changed(TRADE, T=1789893896919000), "trade with a bad value"),
        (changed(TRADE, m="x"), "trade with a bad value"),
        (changed(TRADE, m=None), "trade with a bad value"),
        (changed(TRADE, s=["BTCUSDT"]), "trade with a bad value"),
        (changed(TRADE, s=None), "trade with a bad value"),
        (changed(AGG_TRADE, f=8149080394), "aggTrade with a bad value"),
        (changed(AGG_TRADE, l=...), "aggTrade without l"),
        (changed(BOOK_TICKER, b=None), "bookTicker with a bad value"),
        (changed(BOOK_TICKER, A="x"), "bookTicker with a bad value"),
        (changed(BOOK_TICKER, u=1.5), "bookTicker with a bad value"),
    ],
)
def test_a_malformed_frame_costs_only_itself(payload: bytes, reason: str) -> None:
    parsed = parse_payloads([BTC], TRADE, payload, BOOK_TICKER)
    assert parsed.report.malformed == {reason: 1}
    assert parsed.report.examples[reason] == (ARRIVAL + 1000, payload[:200])
    assert (parsed.trades.row.tolist(), parsed.quotes.row.tolist()) == ([0], [1])


def test_numbers_may_be_texts_and_texts_numbers() -> None:
    other = changed(TRADE, p=80227.0, q=0.01, t="8097313955", T="1789893896919", m="true")
    one, two = parse_payloads([BTC], TRADE), parse_payloads([BTC], other)
    assert columns(one.trades, TRADE_COLUMNS) == columns(two.trades, TRADE_COLUMNS)


def test_unknown_symbols_are_counted_by_name_and_bounded() -> None:
    others = [changed(TRADE, s=f"X{i}USDT") for i in range(1005)]
    parsed = parse_payloads([BTC], TRADE, changed(BOOK_TICKER, s="X0USDT"), *others)
    assert len(parsed.trades) == 1
    assert parsed.report.unknown["X0USDT"] == 2
    assert parsed.report.unknown["…"] == 5
    assert len(parsed.report.unknown) == 1001


def test_other_channels_and_bodies_are_ignored() -> None:
    depth = b'{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":157,"u":160,"b":[["0.0024","10"]]}'
    snapshot = b'{"lastUpdateId":50093239218,"bids":[["61837.63","3.78"]],"asks":[]}'
    parsed = parse_payloads([BTC], combined(depth), depth, snapshot, b"{}")
    assert parsed.report.ignored == 4
    assert not parsed.report.malformed


def test_answers_become_notices() -> None:
    parsed = parse_payloads(
        [BTC],
        b'{"result":null,"id":1}',
        b'{"error":{"code":2,"msg":"Invalid request: unknown variant `NOT_A_METHOD`"},"id":2}',
        b'{"code":2,"msg":"Invalid request"}',
    )
    assert parsed.report.notices == [
        Notice("ack", number="1"),
        Notice("error", text="2 Invalid request: unknown variant `NOT_A_METHOD`", number="2"),
        Notice("error", text="2 Invalid request"),
    ]
    assert not parsed.report.malformed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(
    base=st.sampled_from([TRADE, AGG_TRADE, BOOK_TICKER]),
    field=st.sampled_from(
        ["e", "s", "E", "T", "t", "p", "q", "m", "X", "f", "l", "u", "b", "A", "data"]
    ),
    value=JSON,
)
def test_any_value_in_any_field_is_read_or_counted(base: bytes, field: str, value: object) -> None:
    parsed = parse_payloads([BTC], changed(base, **{field: value}), TRADE)
    report = parsed.report
    counted = (
        report.ignored + len(report.notices) + report.malformed.total() + report.unknown.total()
    )
    assert len(parsed.trades) + len(parsed.quotes) + counted == 2
    assert parsed.trades.row[-1] == parsed.next_row - 1


@settings(max_examples=200, deadline=None)
@given(payload=st.binary() | st.builds(orjson.dumps, JSON.filter(lambda v: v == v)))
def test_any_bytes_are_read_or_counted(payload: bytes) -> None:
    parsed = parse_payloads([BTC], payload, BOOK_TICKER)
    assert parsed.quotes.row.tolist() == [0]
    assert parsed.report.frames == 2


def test_endpoints_keep_routes_apart_and_connections_small() -> None:
    instruments = [instrument(BINANCE, f"C{i}USDT") for i in range(150)]
    public, rest = binance.endpoints(instruments)
    assert (public.path, rest.path) == ("/public/stream", "/public/stream")
    assert (len(public.channels), len(rest.channels)) == (200, 100)
    assert public.channels[:2] == (("bookTicker", "C0USDT"), ("trade", "C0USDT"))
    (message,) = public.subscribe
    request = orjson.loads(message)
    assert request["method"] == "SUBSCRIBE"
    assert request["params"][:2] == ["c0usdt@bookTicker", "c0usdt@trade"]

    paths = {e.path: e.channels for e in binance.endpoints([BTC], trades="aggTrade")}
    assert paths == {
        "/public/stream": (("bookTicker", "BTCUSDT"),),
        "/market/stream": (("aggTrade", "BTCUSDT"),),
    }
    with pytest.raises(ValueError, match="trades-all"):
        binance.endpoints([BTC], trades="trades-all")


@pytest.mark.parametrize(
    ("name", "native", "trades", "quotes", "other", "off_book"),
    [
        ("usdm_ws_btcusdt_20240718.gz", "BTCUSDT", 974, 7113, 3327, 0),
        ("usdm_ws_btcusdt_20230404.dat.gz", "BTCUSDT", 2197, 6765, 4422, 0),
        ("usdm_ws_btcusdt_20230405.dat.gz", "BTCUSDT", 10738, 37440, None, 1),
        ("usdm_ws_ethusdt_20240718.gz", "ETHUSDT", 1640, 9089, 3274, 0),
    ],
)
def test_recordings_give_the_manifests_counts(
    name: str, native: str, trades: int, quotes: int, other: int | None, off_book: int
) -> None:
    frames = [(ns, payload) for _, ns, payload in read_frames(recorded(f"binance/{name}"))]
    parsed = parse_frames([instrument(BINANCE, native)], frames)
    assert (len(parsed.trades), len(parsed.quotes)) == (trades, quotes)
    assert other is None or parsed.report.ignored == other
    assert not parsed.report.malformed
    ids = parsed.trades.id
    assert (ids[1:] - ids[:-1] == 1).all()
    assert parsed.trades.off_book.sum() == off_book


def test_recorded_aggregate_trades_count_their_fills() -> None:
    frames = list(cryptofeed_frames("binance/usdm_cryptofeed_20210417.ws.gz"))
    names = ("DENTUSDT", "KSMUSDT", "XMRUSDT", "YFIUSDT")
    parsed = parse_frames([instrument(BINANCE, n) for n in names], frames)
    assert (len(parsed.trades), len(parsed.quotes)) == (185, 1959)
    for code in range(4):
        mine = parsed.trades.take(parsed.trades.code == code)
        assert (mine.id[1:] - mine.count[1:] == mine.id[:-1]).all()


def test_tardis_fixtures() -> None:
    messages = fixture_messages("binance/tardis_fixture_messages.jsonl")
    universe = [BTC, instrument(BINANCE, "ETHUSDT")]
    parsed = parse_payloads(universe, *messages)
    assert (len(parsed.trades), len(parsed.quotes)) == (4, 1)
    assert parsed.trades.off_book.tolist() == [0, 0, 1, 0]
    assert parsed.report.ignored == 10
    assert not parsed.report.malformed


def test_spot_recordings_keep_their_trades() -> None:
    with gzip.open(recorded("binance/spot_ws_btcusdt_20240808.gz")) as file:
        frames = [(ns, payload) for _, ns, payload in read_frames(file)]  # type: ignore[arg-type]
    parsed = parse_frames([BTC], frames)
    assert len(parsed.trades) == 9757
    assert parsed.report.malformed == {"bookTicker without E": 28040}


def test_the_aggregates_own_numbers_are_handed_on_to_who_asks() -> None:
    frame = (
        b'{"e":"aggTrade","E":1791269849801,"a":%b,"s":"BTCUSDT","p":"85299.90","q":"0.004",'
        b'"f":8149080393,"l":8149080395,"T":1791269849651,"m":true}'
    )
    numbers = (b"3476312671", b"-1", b'"x"', b"true")
    rows: list[Row] = []
    report = ParseReport(aggregates=[])
    routes = {"BTCUSDT": Route(0, rows.append, rows.append)}
    binance.parse([(1_791_269_849_900_000_000, frame % n) for n in numbers], routes, 7, report)
    assert report.aggregates == [(7, 3476312671), (8, 0), (9, 0), (10, 0)]
