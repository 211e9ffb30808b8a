"""The venues' side of a subscription dialogue: text in, replies and stream changes out. Pure.

A session is one connection. `receive` returns, in order, what the venue would send (bytes) and
which streams the connection gains or loses; a stream key is the one of `ingest.simulator.market`.
As with the real venues, a subscription that is accepted need not have data: Binance acknowledges
anything, also streams that belong on another route.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from ingest.simulator.listings import BINANCE, HYPERLIQUID, OKX


@dataclass(frozen=True, slots=True)
class Subscribe:
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    keys: tuple[str, ...]


BACKLOG_FILLS = 30

Action = bytes | Subscribe | Unsubscribe


class Session:
    """One connection to a venue that lists `natives`.

    `combined` says whether Binance's frames go out wrapped in {"stream","data"}; `idle_seconds` is
    after how long without sending the venue closes, `ping_seconds` how often it pings (None: it
    doesn't).
    """

    idle_seconds: ClassVar[float | None] = None
    ping_seconds: ClassVar[float | None] = None
    combined = True

    def __init__(self, natives: Collection[str]) -> None:
        self.natives = frozenset(natives)
        self.keys: set[str] = set()

    def opened(self) -> list[Action]:
        """What happens as soon as the connection stands."""
        return []

    def receive(self, text: bytes) -> list[Action]:
        """The venue's reaction to one text message."""
        raise NotImplementedError

    def _subscribe(self, keys: Collection[str]) -> Subscribe:
        new = tuple(key for key in dict.fromkeys(keys) if key not in self.keys)
        self.keys.update(new)
        return Subscribe(new)

    def _unsubscribe(self, keys: Collection[str]) -> Unsubscribe:
        old = tuple(key for key in dict.fromkeys(keys) if key in self.keys)
        self.keys.difference_update(old)
        return Unsubscribe(old)


class BinanceSession(Session):
    """/public and /market, as /stream (combined) or /ws (raw)."""

    ping_seconds = 180.0
    _ROUTES: ClassVar = {
        "public": ("trade", "bookTicker", "depth", "rpiDepth"),
        "market": ("aggTrade", "markPrice", "kline", "miniTicker", "ticker", "forceOrder"),
    }
    _MAX_STREAMS = 1024

    def __init__(self, natives: Collection[str], route: str, combined: bool, streams: str) -> None:
        super().__init__(natives)
        self.combined = combined
        self._route = self._ROUTES[route]
        self._listed: list[str] = []
        self._first = [s for s in streams.split("/") if s]

    def opened(self) -> list[Action]:
        return [self._add(self._first)] if self._first else []

    def receive(self, text: bytes) -> list[Action]:
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError:
            return [_json({"error": {"code": 3, "msg": "Invalid JSON: expected value"}})]
        if not isinstance(request, dict):
            return [self._invalid(None, "expected an object")]
        number, method = request.get("id"), request.get("method")
        params = request.get("params", [])
        if not isinstance(params, list) or not all(isinstance(p, str) for p in params):
            return [self._invalid(number, "invalid type: expected a sequence of strings")]
        if method == "SUBSCRIBE":
            if len({*self._listed, *params}) > self._MAX_STREAMS:
                return [
                    _json({"error": {"code": 4, "msg": "Too many subscriptions"}, "id": number})
                ]
            return [_json({"result": None, "id": number}), self._add(params)]
        if method == "UNSUBSCRIBE":
            self._listed = [s for s in self._listed if s not in params]
            return [_json({"result": None, "id": number}), self._unsubscribe(params)]
        if method == "LIST_SUBSCRIPTIONS":
            return [_json({"result": self._listed, "id": number})]
        known = "`SUBSCRIBE`, `UNSUBSCRIBE`, `LIST_SUBSCRIPTIONS`, `SET_PROPERTY`, `GET_PROPERTY`"
        return [self._invalid(number, f"unknown variant `{method}`, expected one of {known}")]

    def _add(self, streams: list[str]) -> Subscribe:
        self._listed += [s for s in dict.fromkeys(streams) if s not in self._listed]
        return self._subscribe([s for s in streams if s.partition("@")[2].startswith(self._route)])

    def _invalid(self, number: object, text: str) -> bytes:
        return _json({"error": {"code": 2, "msg": f"Invalid request: {text}"}, "id": number})


class OkxSession(Session):
    """/ws/v5/public and /ws/v5/business: an acknowledgement or an error for every argument."""

    idle_seconds = 30.0
    _CHANNELS: ClassVar = {
        "public": (
            "trades", "bbo-tbt", "books5", "books", "mark-price", "index-tickers", "funding-rate",
            "open-interest", "liquidation-orders", "instruments", "tickers", "price-limit",
        ),
        "business": ("trades-all", "candle1m", "candle1s"),
    }  # fmt: skip

    def __init__(self, natives: Collection[str], path: str, connection_id: str) -> None:
        super().__init__(natives)
        self._channels = self._CHANNELS[path]
        self._connection_id = connection_id

    def receive(self, text: bytes) -> list[Action]:
        if text == b"ping":
            return [b"pong"]
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError:
            request = None
        if not isinstance(request, dict):
            return [self._error(None, "60012", f"Invalid request: {_short(text)}")]
        number, op, args = request.get("id"), request.get("op"), request.get("args")
        if op not in ("subscribe", "unsubscribe") or not isinstance(args, list) or not args:
            return [self._error(number, "60012", f"Invalid request: {_short(text)}")]
        return [action for arg in args for action in self._argument(number, op, arg)]

    def _argument(self, number: object, op: str, arg: object) -> list[Action]:
        channel, native = _text(arg, "channel"), _text(arg, "instId")
        if channel not in self._channels or native not in self.natives:
            text = (
                f"Wrong URL or channel:{channel},instId:{native} doesn't exist. Please use the "
                "correct URL, channel and parameters referring to API document."
            )
            return [self._error(number, "60018", text)]
        key = f"{channel}:{native}"
        change = self._subscribe([key]) if op == "subscribe" else self._unsubscribe([key])
        return [self._reply(number, {"event": op, "arg": arg}), change]

    def _error(self, number: object, code: str, text: str) -> bytes:
        return self._reply(number, {"event": "error", "code": code, "msg": text})

    def _reply(self, number: object, body: dict[str, Any]) -> bytes:
        head = {} if number is None else {"id": number}
        return _json({**head, **body, "connId": self._connection_id})


class HyperliquidSession(Session):
    """/ws: a greeting that is not JSON, one subscription a message, errors on their own channel."""

    idle_seconds = 60.0
    _TYPES = ("trades", "bbo", "l2Book", "activeAssetCtx", "candle")

    def opened(self) -> list[Action]:
        return [b"Websocket connection established."]

    def receive(self, text: bytes) -> list[Action]:
        try:
            request = orjson.loads(text)
            method = request["method"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            problem = f"Error parsing JSON into valid websocket request: {_short(text)}"
            return [self._error(problem)]
        if method == "ping":
            return [b'{"channel":"pong"}']
        wanted = request.get("subscription")
        channel, native = _text(wanted, "type"), _text(wanted, "coin")
        named = channel in self._TYPES and native in self.natives
        if method not in ("subscribe", "unsubscribe") or not named:
            return [self._error(f"Invalid subscription {_short(_json(wanted))}")]
        key = f"{channel}:{native}"
        ack = hyperliquid_ack(method, wanted)
        if method == "subscribe":
            if key in self.keys:
                return [self._error(f"Already subscribed: {_short(_json(wanted))}")]
            return [ack, self._subscribe([key])]
        if key not in self.keys:
            return [self._error(f"Already unsubscribed: {_short(_json(wanted))}")]
        return [ack, self._unsubscribe([key])]

    def _error(self, text: str) -> bytes:
        return _json({"channel": "error", "data": text})


def hyperliquid_ack(method: str, subscription: object) -> bytes:
    """Hyperliquid's answer to a subscription it accepts."""
    data = {"method": method, "subscription": subscription}
    return _json({"channel": "subscriptionResponse", "data": data})


def hyperliquid_backlog(frames: Sequence[bytes]) -> bytes:
    """The trades frame that follows a subscription: the last 30 fills of the frames so far."""
    fills = [fill for frame in frames for fill in orjson.loads(frame)["data"]]
    return _json({"channel": "trades", "data": fills[-BACKLOG_FILLS:]})


def open_session(
    target: str, natives: Mapping[str, Collection[str]], connection_id: str
) -> tuple[str, Session] | None:
    """The exchange and session that a request target (path and query) leads to, None if nowhere.

    `natives` are the instruments of the venues that are served.
    """
    parts = urlsplit(target)
    path = [unquote(p) for p in parts.path.split("/") if p]
    if path[:1] in (["public"], ["market"]) and path[1:2] in (["stream"], ["ws"]):
        if BINANCE not in natives:
            return None
        combined = path[1] == "stream"
        query = parse_qs(parts.query).get("streams", [""])[0]
        streams = query if combined else "/".join(path[2:])
        return BINANCE, BinanceSession(natives[BINANCE], path[0], combined, streams)
    if path in (["ws", "v5", "public"], ["ws", "v5", "business"]) and OKX in natives:
        return OKX, OkxSession(natives[OKX], path[2], connection_id)
    if path == ["ws"] and HYPERLIQUID in natives:
        return HYPERLIQUID, HyperliquidSession(natives[HYPERLIQUID])
    return None


def _text(value: object, name: str) -> str | None:
    """A member of a JSON object, if it is one and the member a string."""
    member = value.get(name) if isinstance(value, dict) else None
    return member if isinstance(member, str) else None


def _json(value: object) -> bytes:
    return orjson.dumps(value)


def _short(text: bytes) -> str:
    return text[:200].decode(errors="replace")
