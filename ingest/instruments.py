"""What is traded: an instrument's Atlas id and contract size, from what the venue publishes.

An Atlas id is `perpetual-<BASE>-<QUOTE>:<MARGIN>`, upper-case (EXCHANGES §6). Ids are built from
the venue's own base, quote and margin fields where its instrument list is at hand, else from the
native name by rule. Multipliers (1000PEPE, kPEPE) stay in the base.
"""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ingest.words import shown, words

BINANCE = "binance-futures"
OKX = "okx-perps"
HYPERLIQUID = "hyperliquid-perps"

# Ordered: a name may end in two of them ("BTCBUSD"), the longer is meant.
_QUOTES = (
    *("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USDP", "GUSD", "CNHT"),
    *("DAI", "EUR", "GBP", "AUD", "TRY", "KRW"),
)
_COLLATERAL = {0: "USDC", 235: "USDE", 360: "USDH"}  # Hyperliquid's token numbers (§3.3)
_PERPETUAL = frozenset({"PERPETUAL", "TRADIFI_PERPETUAL"})
_BINANCE_NAME = re.compile(r"(?P<pair>[^_]+)(_(?P<coin_m>PERP)|_(?P<date>\d{6}))?")
_OKX_NAME = re.compile(r"(?P<base>[^-]+)-(?P<quote>[^-]+)-(SWAP|(?P<date>\d{6}))")
R = TypeVar("R")
_OKX_MARGIN_SUFFIX = re.compile(r"_UM(_XPERP)?$")


@dataclass(frozen=True, slots=True)
class Instrument:
    """One contract: `native` is the venue's name for it, `symbol` the Atlas id.

    Linear: quantity (base) = contracts × `contract_size`. Inverse: notional (quote) = contracts ×
    `contract_size`.
    """

    exchange: str
    native: str
    symbol: str
    contract_size: float = 1.0
    inverse: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """An instrument and whether it trades; `status` is the venue's word for that.

    Binance's status and OKX's state as sent; Hyperliquid has no word: "listed" or "delisted".
    """

    instrument: Instrument
    status: str

    @property
    def trading(self) -> bool:
        return self.status == _TRADING[self.instrument.exchange]


_TRADING = {BINANCE: "TRADING", OKX: "live", HYPERLIQUID: "listed"}


def partition_of(exchange: str, symbol: str, partitions: int) -> int:
    """The log partition of an instrument: all its ticks and bars are in that one."""
    return zlib.crc32(f"{exchange}|{symbol}".encode()) % partitions


def atlas_id(base: str, quote: str, margin: str, date: str | None = None) -> str:
    """The Atlas id; `date` is YYMMDD of a dated future, None for a perpetual."""
    contract = f"{base}-{quote}:{margin}".upper()
    return f"perpetual-{contract}" if date is None else f"future-{contract}-20{date}"


def symbol_by_name(exchange: str, native: str) -> str | None:
    """The Atlas id by the rules for names, None where the name does not say."""
    parts = _parts_by_name(exchange, native)
    return atlas_id(*parts) if parts else None


def instrument_by_name(exchange: str, native: str) -> Instrument | None:
    """The instrument by its name alone; None where the name does not determine it.

    So for OKX and Binance's coin-margined contracts, whose size is not in the name.
    """
    parts = _parts_by_name(exchange, native)
    if parts is None or exchange == OKX or parts[1] == "USD":
        return None
    return Instrument(exchange, native, atlas_id(*parts))


_Parts = tuple[str, str, str, str | None]


def _parts_by_name(exchange: str, native: str) -> _Parts | None:
    return _by_exchange(_NAME_RULES, exchange)(native)


def _binance_name(native: str) -> _Parts | None:
    match = _BINANCE_NAME.fullmatch(native)
    if match is None:
        return None
    pair, date = match["pair"].upper(), match["date"]
    if match["coin_m"]:
        return (pair[:-3], "USD", pair[:-3], None) if pair.endswith("USD") else None
    for quote in _QUOTES:
        if pair.endswith(quote) and len(pair) > len(quote):
            # "BNBUSD_240628" may be BNB/USD (coin-margined) or BN/BUSD: refuse to guess.
            return None if date and quote == "BUSD" else (pair[: -len(quote)], quote, quote, date)
    return None


def _okx_name(native: str) -> _Parts | None:
    match = _OKX_NAME.fullmatch(native.upper())
    if match is None:
        return None
    return *_okx_parts(match["base"], match["quote"], None), match["date"]


def _okx_parts(base: str, quote: str, margin: str | None) -> tuple[str, str, str]:
    """(base, quote, margin); `margin` is the venue's settlement currency where known."""
    plain = _OKX_MARGIN_SUFFIX.sub("", quote)
    if plain != quote:
        return base, plain, plain
    return base, quote, margin or (base if quote == "USD" else quote)


def _hyperliquid_name(native: str) -> _Parts | None:
    # "@107" is a spot pair.
    return None if not native or native.startswith("@") else (native, "USDC", "USDC", None)


_NAME_RULES: dict[str, Callable[[str], _Parts | None]] = {
    BINANCE: _binance_name,
    OKX: _okx_name,
    HYPERLIQUID: _hyperliquid_name,
}


def instruments_from(exchange: str, payload: object) -> list[Instrument]:
    """The perpetuals in a venue's instrument list, in its order, whatever their status.

    `payload` is the decoded body of Binance's exchangeInfo, OKX's /public/instruments, or
    Hyperliquid's meta, bare or as {"dex": name, "meta": body} for a HIP-3 dex. Raises ValueError
    naming what is wrong with it, and where.
    """
    listed, problems = listed_from(exchange, payload)
    if problems:
        raise ValueError(problems[0])
    return [item.instrument for item in listed]


def listed_from(exchange: str, payload: object) -> tuple[list[Listed], list[str]]:
    """As `instruments_from`, with their status; entries that can't be read are told, not raised.

    So one odd new listing doesn't cost the others. Of those that don't trade (announced, settled)
    nothing is said. Raises ValueError for a payload that is no list of instruments.
    """
    read = _by_exchange(_READERS, exchange)
    if not isinstance(payload, dict):
        raise ValueError(f"{exchange}: the instrument list is not an object: {shown(payload, 100)}")
    return read(payload)


def _read(
    exchange: str,
    entries: Sequence[dict[str, Any]],
    status_of: Callable[[dict[str, Any]], str],
    read: Callable[[dict[str, Any]], Instrument],
) -> tuple[list[Listed], list[str]]:
    listed, problems = [], []
    for entry in entries:
        status = status_of(entry)
        try:
            listed.append(Listed(read(entry), status))
        except ValueError as error:
            if status in (_TRADING[exchange], ""):
                problems.append(str(error))
    return listed, problems


def _entries(exchange: str, payload: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = payload.get(key)
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise ValueError(f"{exchange}: no list of objects {key!r} in {shown(payload)}")
    return entries


def _text(exchange: str, entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{exchange}: {key!r} is {shown(value)}, not a name, in {shown(entry)}")
    return value


def _size(exchange: str, entry: dict[str, Any], key: str) -> float:
    try:
        value = float(entry[key])
    except (KeyError, TypeError, ValueError):
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise ValueError(f"{exchange}: {key!r} is not a size > 0 in {shown(entry)}")
    return value


def _binance_list(payload: dict[str, Any]) -> tuple[list[Listed], list[str]]:
    entries = _entries(BINANCE, payload, "symbols")
    perpetuals = [e for e in entries if words(e.get("contractType")) in _PERPETUAL]
    return _read(BINANCE, perpetuals, lambda e: words(e.get("status")), _binance_entry)


def _binance_entry(entry: dict[str, Any]) -> Instrument:
    native = _text(BINANCE, entry, "symbol")
    base, quote, margin = (
        _text(BINANCE, entry, key) for key in ("baseAsset", "quoteAsset", "marginAsset")
    )
    inverse = margin == base
    size = _size(BINANCE, entry, "contractSize") if inverse else 1.0
    return Instrument(BINANCE, native, atlas_id(base, quote, margin), size, inverse)


def _okx_list(payload: dict[str, Any]) -> tuple[list[Listed], list[str]]:
    if payload.get("code") != "0":
        code, message = payload.get("code"), payload.get("msg")
        raise ValueError(
            f"{OKX}: not a list of instruments: code {shown(code)}, msg {shown(message)}"
        )
    swaps = [e for e in _entries(OKX, payload, "data") if e.get("instType") == "SWAP"]
    return _read(OKX, swaps, lambda e: words(e.get("state")), _okx_entry)


def _okx_entry(entry: dict[str, Any]) -> Instrument:
    native = _text(OKX, entry, "instId")
    match = _OKX_NAME.fullmatch(native)
    if match is None or words(entry.get("ctType")) not in ("linear", "inverse"):
        raise ValueError(f"{OKX}: not a swap as known (instId, ctType): {shown(entry)}")
    parts = _okx_parts(match["base"], match["quote"], _text(OKX, entry, "settleCcy"))
    size = _size(OKX, entry, "ctVal") * _size(OKX, entry, "ctMult")
    return Instrument(OKX, native, atlas_id(*parts), size, entry["ctType"] == "inverse")


def _hyperliquid_list(payload: dict[str, Any]) -> tuple[list[Listed], list[str]]:
    dex = words(payload.get("dex") or "")
    meta = payload.get("meta", payload)
    if not isinstance(meta, dict):
        raise ValueError(f"{HYPERLIQUID}: 'meta' is not an object: {shown(meta, 100)}")
    token = meta.get("collateralToken", 0)
    if not isinstance(token, int) or token not in _COLLATERAL:
        # Without its name there are no Atlas ids: that dex is left out, the others are not.
        known = ", ".join(f"{n} {name}" for n, name in _COLLATERAL.items())
        which = f"dex {dex!r}" if dex else "the main dex"
        return [], [
            f"{HYPERLIQUID}: {which} is left out: collateral token {shown(token)}; known {known}"
        ]
    collateral = _COLLATERAL[token]

    def read(entry: dict[str, Any]) -> Instrument:
        name = _text(HYPERLIQUID, entry, "name")
        if dex and not name.startswith(f"{dex}:"):
            raise ValueError(f"{HYPERLIQUID}: {shown(name)} is not of dex {shown(dex)}")
        return Instrument(HYPERLIQUID, name, atlas_id(name, collateral, collateral))

    def status(entry: dict[str, Any]) -> str:
        return "delisted" if entry.get("isDelisted") is True else "listed"

    return _read(HYPERLIQUID, _entries(HYPERLIQUID, meta, "universe"), status, read)


_READERS: dict[str, Callable[[dict[str, Any]], tuple[list[Listed], list[str]]]] = {
    BINANCE: _binance_list,
    OKX: _okx_list,
    HYPERLIQUID: _hyperliquid_list,
}


def _by_exchange(table: Mapping[str, R], exchange: str) -> R:
    if exchange not in table:
        raise ValueError(f"unknown exchange {exchange!r}: known are {', '.join(table)}")
    return table[exchange]
