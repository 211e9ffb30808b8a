"""What a client may subscribe to: the channels of a control frame, granted or refused. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from publish.catalog import EXCHANGES, INTERVAL_NAMES, METRICS

MAX_CHANNELS = 200
"""Of one connection, and so also of one control frame."""
MAX_SYMBOLS = 1000
"""Of one channel; who wants more takes all."""
_MAX_TEXT = 200

Code = Literal["not_entitled", "not_live", "unknown_channel", "limit_exceeded", "invalid_message"]


@dataclass(frozen=True, slots=True)
class Channel:
    """A dataset of a venue at an interval; `symbols` None: all of them."""

    name: str
    symbols: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A channel that is refused; `channel` is as the client named it, shortened."""

    channel: str
    code: Code
    message: str

    def answer(self) -> dict[str, str]:
        return {"channel": self.channel, "code": self.code, "message": self.message}


@dataclass(frozen=True, slots=True)
class Access:
    """What may be asked for here and with this key.

    `live`: venues that are collected. `intervals`: those that the plan has.
    """

    live: Collection[str]
    intervals: Collection[str]


def read(
    asked: object, access: Access, held: Mapping[str, frozenset[str] | None]
) -> tuple[list[Channel], list[Rejected]]:
    """The channels granted, and those refused, of a subscription's `channels`.

    `held`: the channels that the connection has already, by name their symbols (None: all). More
    than `MAX_CHANNELS` of them, or `MAX_SYMBOLS` of one, are refused channel by channel. Raises
    ValueError if `asked` is no list.
    """
    if not isinstance(asked, list) or not asked:
        raise ValueError('"channels" should be a list of "dataset.exchange.interval" or objects')
    having = dict(held)
    granted: list[Channel] = []
    rejected: list[Rejected] = []
    for item in asked:
        channel = _channel(item, access)
        if isinstance(channel, Channel):
            symbols = together(having, channel)
            message = _too_many(having.keys() | {channel.name}, symbols)
            if message is None:
                having[channel.name] = symbols
                granted.append(channel)
                continue
            channel = Rejected(channel.name, "limit_exceeded", message)
        rejected.append(channel)
    return granted, rejected


def together(held: Mapping[str, frozenset[str] | None], channel: Channel) -> frozenset[str] | None:
    """The symbols of a channel (None: all) once that is added to those held."""
    before = held.get(channel.name, frozenset())
    return None if before is None or channel.symbols is None else before | channel.symbols


def _too_many(names: Collection[str], symbols: frozenset[str] | None) -> str | None:
    if len(names) > MAX_CHANNELS:
        return f"a connection has at most {MAX_CHANNELS} channels"
    if symbols is not None and len(symbols) > MAX_SYMBOLS:
        return f"a channel has at most {MAX_SYMBOLS} symbols, or all"
    return None


def name_of(item: object) -> str:
    """The channel a client means, or what it wrote, shortened."""
    if isinstance(item, dict):
        parts = [item.get(key) for key in ("dataset", "exchange", "interval")]
        if all(isinstance(part, str) for part in parts):
            return ".".join(map(str, parts))[:_MAX_TEXT]
    return str(item)[:_MAX_TEXT]


def _channel(item: object, access: Access) -> Channel | Rejected:
    name = name_of(item)
    parts = name.split(".")
    if not isinstance(item, str | dict) or len(parts) != 3:
        message = 'should be "dataset.exchange.interval", or an object of these and "symbols"'
        return Rejected(name, "invalid_message", message)
    try:
        symbols = _symbols(item)
    except ValueError as error:
        return Rejected(name, "invalid_message", str(error))
    refusal = _refusal(access, *parts)
    return Rejected(name, *refusal) if refusal else Channel(name, symbols)


def _symbols(item: str | dict[str, Any]) -> frozenset[str] | None:
    asked = item.get("symbols") if isinstance(item, dict) else None
    if asked is None:
        return None
    if not isinstance(asked, list) or not all(isinstance(one, str) for one in asked):
        raise ValueError('"symbols" should be a list of Atlas symbols')
    if not 0 < len(asked) <= MAX_SYMBOLS or any(len(one) > _MAX_TEXT for one in asked):
        raise ValueError(f'"symbols" should be 1 to {MAX_SYMBOLS} Atlas symbols')
    return frozenset(asked)


def _refusal(access: Access, dataset: str, exchange: str, interval: str) -> tuple[Code, str] | None:
    known: Sequence[tuple[str, str, Collection[str]]] = (
        ("dataset", dataset, METRICS),
        ("exchange", exchange, EXCHANGES),
        ("interval", interval, INTERVAL_NAMES),
    )
    wrong = [
        f"no {kind} {value!r}: {', '.join(of)}" for kind, value, of in known if value not in of
    ]
    if wrong:
        return "unknown_channel", "; ".join(wrong)
    if exchange not in access.live:
        return "not_live", f"{exchange} is not collected here"
    if interval not in access.intervals:
        return "not_entitled", f"the key's plan has no interval {interval}"
    return None
