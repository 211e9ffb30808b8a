"""What the simulated venues list: instruments, their increments, and the REST answers about them.

Price and size increments follow the venues' own rules (tick and lot sizes of late 2026); contract
values of OKX are the real ones (BTC-USDT-SWAP 0.01 BTC, ETH-USDT-SWAP 0.1 ETH, BTC-USD-SWAP
100 USD inverse).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ingest.instruments import Instrument

BINANCE = "binance-futures"
OKX = "okx-perps"
HYPERLIQUID = "hyperliquid-perps"
EXCHANGES = (BINANCE, OKX, HYPERLIQUID)

QUOTES = ("USDT", "USDC", "FDUSD", "BUSD")


@dataclass(frozen=True, slots=True)
class Listing:
    """One instrument of a venue.

    `tick` is in quote units, `lot` in the venue's own size unit (base units; contracts on OKX),
    `units` how many of the asset one price unit stands for (1000 for 1000PEPE), `weight` how busy
    it is, 1 being the busiest.
    """

    exchange: str
    native: str
    asset: str
    tick: float
    price_decimals: int
    lot: float
    size_decimals: int
    weight: float
    contract_size: float = 1.0
    inverse: bool = False
    units: float = 1.0
    trading: bool = True


LISTINGS = (
    Listing(BINANCE, "BTCUSDT", "BTC", 0.1, 2, 0.001, 3, 1.0),
    Listing(BINANCE, "ETHUSDT", "ETH", 0.01, 2, 0.001, 3, 0.7),
    Listing(BINANCE, "1000PEPEUSDT", "PEPE", 1e-7, 7, 1, 0, 0.2, units=1000),
    Listing(BINANCE, "XMRUSDT", "XMR", 0.01, 2, 0.001, 3, 0.01),
    Listing(BINANCE, "SOLUSDT", "SOL", 0.01, 2, 0.01, 2, 0.5),
    Listing(BINANCE, "AAVEUSDT", "AAVE", 0.01, 2, 0.1, 1, 0.05),
    Listing(OKX, "BTC-USDT-SWAP", "BTC", 0.1, 1, 0.01, 2, 1.0, 0.01),
    Listing(OKX, "ETH-USDT-SWAP", "ETH", 0.01, 2, 0.01, 2, 0.7, 0.1),
    Listing(OKX, "BTC-USD-SWAP", "BTC", 0.1, 1, 0.1, 1, 0.2, 100.0, inverse=True),
    Listing(OKX, "AAVE-USDT-SWAP", "AAVE", 0.01, 2, 0.1, 1, 0.01, 0.1),
    Listing(OKX, "SOL-USDT-SWAP", "SOL", 0.01, 2, 0.01, 2, 0.5, 1.0),
    Listing(HYPERLIQUID, "BTC", "BTC", 1.0, 1, 0.00001, 5, 1.0),
    Listing(HYPERLIQUID, "ETH", "ETH", 0.1, 1, 0.0001, 4, 0.7),
    Listing(HYPERLIQUID, "kPEPE", "PEPE", 1e-6, 6, 1, 0, 0.2, units=1000),
    Listing(HYPERLIQUID, "xyz:TSLA", "TSLA", 0.01, 2, 0.001, 3, 0.01),
    Listing(HYPERLIQUID, "SOL", "SOL", 0.01, 2, 0.01, 2, 0.5),
    Listing(HYPERLIQUID, "AAVE", "AAVE", 0.01, 2, 0.01, 2, 0.05),
)
_BY_NAME = {(listing.exchange, listing.native): listing for listing in LISTINGS}

DEFAULT_NATIVES: dict[str, tuple[str, ...]] = {
    BINANCE: ("BTCUSDT", "ETHUSDT", "1000PEPEUSDT", "XMRUSDT"),
    OKX: ("BTC-USDT-SWAP", "ETH-USDT-SWAP", "BTC-USD-SWAP", "AAVE-USDT-SWAP"),
    HYPERLIQUID: ("BTC", "ETH", "kPEPE", "xyz:TSLA"),
}
"""Four symbols a venue; the last of each is quiet (a hundredth of the busiest)."""


def listing(exchange: str, native: str) -> Listing:
    """A listing the generator knows. Raises ValueError naming those it knows."""
    found = _BY_NAME.get((exchange, native)) or _made_up(exchange, native)
    if found is None:
        known = ", ".join(n for e, n in _BY_NAME if e == exchange) or f"none ({exchange!r})"
        raise ValueError(f"no simulated instrument {native!r} on {exchange}; known: {known}")
    return found


def many_natives(exchange: str, n: int) -> list[str]:
    """Names of `n` made-up instruments, quiet ones at SOL's price: SIM000USDT, …"""
    return [_MADE_UP[exchange][0].format(i) for i in range(n)]


_MADE_UP = {
    BINANCE: ("SIM{:03}USDT", "SOLUSDT"),
    OKX: ("SIM{:03}-USDT-SWAP", "SOL-USDT-SWAP"),
    HYPERLIQUID: ("SIM{:03}", "SOL"),
}


def _made_up(exchange: str, native: str) -> Listing | None:
    number = native[3:6]
    if exchange not in _MADE_UP or not (native.startswith("SIM") and number.isdigit()):
        return None
    name, like = _MADE_UP[exchange]
    if native != name.format(int(number)):
        return None
    return replace(_BY_NAME[exchange, like], native=native, weight=0.05)


def listing_of_recording(exchange: str, native: str, named: Instrument | None) -> Listing:
    """A name found in a recording, as its header says; without one as listed here, else plain."""
    known = _BY_NAME.get((exchange, native))
    plain = known or Listing(exchange, native, base_of(exchange, native), 0.01, 2, 0.001, 3, 1.0)
    if named is None:
        return plain
    return replace(plain, contract_size=named.contract_size, inverse=named.inverse)


def base_of(exchange: str, native: str) -> str:
    """The base currency in a native name: 1000PEPE of 1000PEPEUSDT."""
    if exchange == BINANCE:
        return next((native.removesuffix(q) for q in QUOTES if native.endswith(q)), native)
    return native.split("-")[0]


def exchange_info(listings: Iterable[Listing]) -> dict[str, Any]:
    """The body of Binance's GET /fapi/v1/exchangeInfo."""
    symbols = []
    for item in listings:
        base = base_of(BINANCE, item.native)
        quote = item.native.removeprefix(base) or "USDT"
        symbols.append(
            {
                "symbol": item.native,
                "pair": item.native,
                "contractType": "PERPETUAL",
                "deliveryDate": 4133404800000,
                "onboardDate": 1569398400000,
                "status": "TRADING" if item.trading else "SETTLING",
                "baseAsset": base,
                "quoteAsset": quote,
                "marginAsset": quote,
                "pricePrecision": item.price_decimals,
                "quantityPrecision": item.size_decimals,
                "underlyingType": "COIN",
                "underlyingSubType": [],
                "filters": [
                    {"filterType": "PRICE_FILTER", "tickSize": decimal(item.tick)},
                    {"filterType": "LOT_SIZE", "stepSize": decimal(item.lot)},
                    {"filterType": "MIN_NOTIONAL", "notional": "5"},
                ],
            }
        )
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1}
    return {
        "timezone": "UTC",
        "futuresType": "U_MARGINED",
        "rateLimits": [{**limit, "limit": 2400}],
        "symbols": symbols,
    }


def okx_instruments(listings: Iterable[Listing], native: str | None = None) -> dict[str, Any]:
    """The body of OKX's GET /api/v5/public/instruments?instType=SWAP[&instId=…]."""
    rows = [_okx_instrument(item) for item in listings if native in (None, item.native)]
    if rows:
        return {"code": "0", "data": rows, "msg": ""}
    text = "Instrument ID, Instrument ID code, or Spread ID doesn't exist."
    return {"code": "51001", "data": [], "msg": text}


def _okx_instrument(item: Listing) -> dict[str, Any]:
    base, quote, _ = (*item.native.split("-"), "", "")[:3]
    return {
        "instType": "SWAP",
        "instId": item.native,
        "instFamily": f"{base}-{quote}",
        "uly": f"{base}-{quote}",
        "baseCcy": "",
        "quoteCcy": "",
        "settleCcy": base if item.inverse else quote,
        "ctType": "inverse" if item.inverse else "linear",
        "ctVal": decimal(item.contract_size),
        "ctMult": "1",
        "ctValCcy": quote if item.inverse else base,
        "tickSz": decimal(item.tick),
        "lotSz": decimal(item.lot),
        "minSz": decimal(item.lot),
        "listTime": "1573557408000",
        "expTime": "",
        "state": "live" if item.trading else "suspend",
        "ruleType": "normal",
        "instCategory": "1",
    }


def hyperliquid_meta(listings: Iterable[Listing], dex: str = "") -> dict[str, Any]:
    """The body of Hyperliquid's POST /info {"type":"meta","dex":…}: HIP-3 dexes apart."""
    universe = [
        {"name": item.native, "szDecimals": item.size_decimals, "maxLeverage": 20}
        | ({} if item.trading else {"isDelisted": True})
        for item in listings
        if dex_of(item) == dex
    ]
    return {"universe": universe, "marginTables": [], "collateralToken": 0}


def dex_of(item: Listing) -> str:
    """The HIP-3 dex in a Hyperliquid name: xyz of xyz:TSLA, empty for the venue's own."""
    return item.native.rpartition(":")[0]


def hyperliquid_info(listings: Sequence[Listing], query: object) -> object | None:
    """The answer to a POST /info body, or None for one that isn't simulated."""
    if not isinstance(query, dict):
        return None
    dexes = sorted({dex_of(item) for item in listings} - {""})
    match query.get("type"):
        case "meta":
            return hyperliquid_meta(listings, query.get("dex") or "")
        case "perpDexs":
            return [None, *({"name": dex} for dex in dexes)]
        case "allPerpMetas":
            return [hyperliquid_meta(listings, dex) for dex in ("", *dexes)]
        case _:
            return None


def decimal(value: float) -> str:
    """Plain decimal text: 0.0000001, not 1e-07."""
    return f"{value:.10f}".rstrip("0").rstrip(".")
