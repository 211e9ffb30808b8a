"""What the venues answer, without a connection."""

from typing import Any

import orjson
import pytest

from ingest.simulator.listings import BINANCE, DEFAULT_NATIVES, EXCHANGES, HYPERLIQUID, OKX
from ingest.simulator.market import Market
from ingest.simulator.protocols import (
    Action,
    Session,
    Subscribe,
    Unsubscribe,
    open_session,
)
from ingest.simulator.spans import instruments_of
from ingest.venues import ParseReport, venue


def session(target: str) -> Session:
    opened = open_session(target, DEFAULT_NATIVES, "c0ffee00")
    assert opened is not None
    return opened[1]


def send(to: Session, body: object) -> list[Any]:
    """The reaction, replies as JSON."""
    text = body if isinstance(body, bytes) else orjson.dumps(body)
    return [plain(action) for action in to.receive(text)]


def plain(action: Action) -> Any:
    return orjson.loads(action) if isinstance(action, bytes) else action


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_collectors_own_subscriptions_are_accepted(exchange: str) -> None:
    instruments = instruments_of(Market(1, exchange).listings)
    for trades in venue(exchange).trade_channels:
        keys: set[str] = set()
        for endpoint in venue(exchange).endpoints(instruments, trades):
            opened = session(endpoint.path)
            actions = opened.opened()
            replies = [a for text in endpoint.subscribe for a in opened.receive(text)]
            frames = [a for a in [*actions, *replies] if isinstance(a, bytes)]
            report = ParseReport()
            venue(exchange).parse([(1, frame) for frame in frames], {}, 0, report)
            assert [n.kind for n in report.notices].count("ack") == endpoint.acks
            assert not report.malformed
            assert len(opened.keys) == len(endpoint.channels)
            keys |= opened.keys
        assert len(keys) == 2 * len(instruments)


@pytest.mark.parametrize(
    "target", ["/", "/ws/btcusdt@trade", "/stream", "/private/ws", "/ws/v5/private", "/public/x"]
)
def test_other_paths_lead_nowhere(target: str) -> None:
    assert open_session(target, DEFAULT_NATIVES, "1") is None


def test_only_the_venues_that_are_served_have_paths() -> None:
    assert open_session("/ws", {OKX: ["BTC-USDT-SWAP"]}, "1") is None
    assert open_session("/public/stream", {OKX: ["BTC-USDT-SWAP"]}, "1") is None
    opened = open_session("/ws/v5/public", {OKX: ["BTC-USDT-SWAP"]}, "1")
    assert opened is not None
    assert opened[0] == OKX


def test_binance_acknowledges_and_subscribes() -> None:
    public = session("/public/stream")
    request = {"method": "SUBSCRIBE", "params": ["btcusdt@trade", "btcusdt@bookTicker"], "id": 9}
    keys = ("btcusdt@trade", "btcusdt@bookTicker")
    assert send(public, request) == [{"result": None, "id": 9}, Subscribe(keys)]
    assert send(public, request) == [{"result": None, "id": 9}, Subscribe(())]
    assert send(public, {"method": "LIST_SUBSCRIPTIONS", "id": 2})[0]["result"] == list(keys)
    request = {"method": "UNSUBSCRIBE", "params": ["btcusdt@trade"], "id": 10}
    assert send(public, request) == [{"result": None, "id": 10}, Unsubscribe(keys[:1])]


def test_binance_acknowledges_what_belongs_on_another_route_and_stays_silent() -> None:
    request = {"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": 1}
    assert send(session("/public/ws"), request) == [{"result": None, "id": 1}, Subscribe(())]
    accepted = [{"result": None, "id": 1}, Subscribe(("btcusdt@aggTrade",))]
    assert send(session("/market/ws"), request) == accepted


@pytest.mark.parametrize(
    ("target", "combined", "keys"),
    [
        ("/public/stream?streams=btcusdt@trade/ethusdt@trade", True, 2),
        ("/public/ws/btcusdt@trade", False, 1),
        ("/public/stream?streams=btcusdt%40trade", True, 1),
        ("/market/stream?streams=btcusdt@trade", True, 0),
        ("/public/stream", True, 0),
    ],
)
def test_binance_streams_in_the_url(target: str, combined: bool, keys: int) -> None:
    opened = session(target)
    opened.opened()
    assert (opened.combined, len(opened.keys)) == (combined, keys)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"method": "NOT_A_METHOD", "id": 3}, 2),
        ({"method": "SUBSCRIBE", "params": "btcusdt@trade", "id": 3}, 2),
        ({"method": "SUBSCRIBE", "params": [f"s{i}@trade" for i in range(1025)], "id": 3}, 4),
        ([1], 2),
        (b"hello", 3),
    ],
)
def test_binance_errors(request_: object, code: int) -> None:
    reply, *rest = send(session("/public/stream"), request_)
    assert reply["error"]["code"] == code
    assert rest == []


def test_okx_answers_every_argument() -> None:
    public = session("/ws/v5/public")
    good = {"channel": "bbo-tbt", "instId": "BTC-USDT-SWAP"}
    bad = {"channel": "bbo-tbt", "instId": "NOPE-USDT-SWAP"}
    actions = send(public, {"id": "7", "op": "subscribe", "args": [bad, good]})
    assert [a["event"] for a in actions[:2]] == ["error", "subscribe"]
    assert actions[0]["code"] == "60018"
    assert "NOPE-USDT-SWAP" in actions[0]["msg"]
    assert actions[1] == {"id": "7", "event": "subscribe", "arg": good, "connId": "c0ffee00"}
    assert actions[2] == Subscribe(("bbo-tbt:BTC-USDT-SWAP",))
    actions = send(public, {"op": "unsubscribe", "args": [good]})
    assert actions[0] == {"event": "unsubscribe", "arg": good, "connId": "c0ffee00"}
    assert actions[1] == Unsubscribe(("bbo-tbt:BTC-USDT-SWAP",))


def test_okx_channels_are_bound_to_their_path() -> None:
    request = {"op": "subscribe", "args": [{"channel": "trades-all", "instId": "BTC-USDT-SWAP"}]}
    assert send(session("/ws/v5/public"), request)[0]["code"] == "60018"
    assert send(session("/ws/v5/business"), request)[0]["event"] == "subscribe"


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"op":"login"}', b'{"op":"subscribe","args":{}}'])
def test_okx_invalid_requests(text: bytes) -> None:
    assert [a["code"] for a in send(session("/ws/v5/public"), text)] == ["60012"]


def test_okx_pongs() -> None:
    assert session("/ws/v5/public").receive(b"ping") == [b"pong"]


def test_hyperliquid_greets_acknowledges_and_pongs() -> None:
    opened = session("/ws")
    assert opened.opened() == [b"Websocket connection established."]
    wanted = {"type": "trades", "coin": "kPEPE"}
    ack, change = send(opened, {"method": "subscribe", "subscription": wanted})
    assert ack["channel"] == "subscriptionResponse"
    assert ack["data"] == {"method": "subscribe", "subscription": wanted}
    assert change == Subscribe(("trades:kPEPE",))
    assert send(opened, {"method": "ping"}) == [{"channel": "pong"}]
    again = send(opened, {"method": "subscribe", "subscription": wanted})
    assert again[0]["data"].startswith("Already subscribed")
    ack, change = send(opened, {"method": "unsubscribe", "subscription": wanted})
    assert change == Unsubscribe(("trades:kPEPE",))


@pytest.mark.parametrize(
    "request_",
    [
        b"hello",
        [1],
        {"method": "subscribe", "subscription": {"type": "trades", "coin": "NOPE"}},
        {"method": "subscribe", "subscription": {"type": "nope", "coin": "BTC"}},
        {"method": "subscribe", "subscription": {"type": "trades", "coin": ["BTC"]}},
        {"method": "subscribe"},
        {"method": "unsubscribe", "subscription": {"type": "trades", "coin": "BTC"}},
    ],
)
def test_hyperliquid_errors(request_: object) -> None:
    replies = send(session("/ws"), request_)
    assert [reply["channel"] for reply in replies] == ["error"]


@pytest.mark.parametrize("exchange", [BINANCE, OKX, HYPERLIQUID])
def test_any_text_is_answered(exchange: str) -> None:
    target = {BINANCE: "/public/stream", OKX: "/ws/v5/public", HYPERLIQUID: "/ws"}[exchange]
    for text in (b"", b"null", b"1", b'"x"', b"{}", b"\xff", b'{"method":[],"op":{},"args":[1]}'):
        assert session(target).receive(text)
