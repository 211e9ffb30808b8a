import contextlib
import zlib

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.instruments import (
    BINANCE,
    HYPERLIQUID,
    OKX,
    Instrument,
    instrument_by_name,
    instruments_from,
    listed_from,
    partition_of,
    symbol_by_name,
)
from tests.ingest.parsing import recorded

# EXCHANGES §6: what an Atlas snapshot shows, or follows by its rules.
ATLAS = {
    BINANCE: {
        "0GUSDT": "perpetual-0G-USDT:USDT",
        "1000000BOBUSDT": "perpetual-1000000BOB-USDT:USDT",
        "1000000MOGUSDT": "perpetual-1000000MOG-USDT:USDT",
        "1000BONKUSDC": "perpetual-1000BONK-USDC:USDC",
        "1000BONKUSDT": "perpetual-1000BONK-USDT:USDT",
        "1000PEPEUSDC": "perpetual-1000PEPE-USDC:USDC",
        "1INCHUSDT": "perpetual-1INCH-USDT:USDT",
        "1MBABYDOGEUSDT": "perpetual-1MBABYDOGE-USDT:USDT",
        "2ZUSDT": "perpetual-2Z-USDT:USDT",
        "4USDT": "perpetual-4-USDT:USDT",
        "AAPLUSDT": "perpetual-AAPL-USDT:USDT",
        "AAVEUSDC": "perpetual-AAVE-USDC:USDC",
        "ADABUSD": "perpetual-ADA-BUSD:BUSD",
        "BTCUSDT": "perpetual-BTC-USDT:USDT",
        "ETHUSDC": "perpetual-ETH-USDC:USDC",
        "BTCUSDT_261225": "future-BTC-USDT:USDT-20261225",
        "BTCUSD_PERP": "perpetual-BTC-USD:BTC",
        "BNBUSD_PERP": "perpetual-BNB-USD:BNB",
        "币安人生USDT": "perpetual-币安人生-USDT:USDT",
    },
    OKX: {
        "BTC-USDT-SWAP": "perpetual-BTC-USDT:USDT",
        "BTC-USD-SWAP": "perpetual-BTC-USD:BTC",
        "BTC-USDC-SWAP": "perpetual-BTC-USDC:USDC",
        "BTC-USD_UM-SWAP": "perpetual-BTC-USD:USD",
        "1INCH-USD-SWAP": "perpetual-1INCH-USD:1INCH",
        "AIDOGE-USDT-SWAP": "perpetual-AIDOGE-USDT:USDT",
        "PEPE-USDT-SWAP": "perpetual-PEPE-USDT:USDT",
    },
    HYPERLIQUID: {
        "BTC": "perpetual-BTC-USDC:USDC",
        "0G": "perpetual-0G-USDC:USDC",
        "kBONK": "perpetual-KBONK-USDC:USDC",
        "kPEPE": "perpetual-KPEPE-USDC:USDC",
        "hyna:HYPE": "perpetual-HYNA:HYPE-USDC:USDC",
        "xyz:AAPL": "perpetual-XYZ:AAPL-USDC:USDC",
        "para:BTCD": "perpetual-PARA:BTCD-USDC:USDC",
    },
}


@pytest.mark.parametrize(
    ("exchange", "native", "symbol"),
    [(e, native, symbol) for e, names in ATLAS.items() for native, symbol in names.items()],
)
def test_atlas_ids_by_name(exchange: str, native: str, symbol: str) -> None:
    assert symbol_by_name(exchange, native) == symbol


@pytest.mark.parametrize(
    ("exchange", "native"),
    [
        (BINANCE, "ETHBTC"),  # quoted in a coin: the margin is not in the name
        (BINANCE, "USDT"),
        (BINANCE, "BNBUSD_240628"),  # BNB/USD coin-margined, or BN/BUSD
        (BINANCE, ""),
        (OKX, "BTC-USDT"),  # spot
        (HYPERLIQUID, "@107"),  # spot
        (HYPERLIQUID, ""),
    ],
)
def test_names_that_do_not_say(exchange: str, native: str) -> None:
    assert symbol_by_name(exchange, native) is None
    assert instrument_by_name(exchange, native) is None


def test_an_instrument_by_name_only_where_the_size_is_known() -> None:
    assert instrument_by_name(BINANCE, "BTCUSDT") == Instrument(
        BINANCE, "BTCUSDT", "perpetual-BTC-USDT:USDT", 1.0, False
    )
    assert instrument_by_name(BINANCE, "BTCUSD_PERP") is None
    assert instrument_by_name(OKX, "BTC-USDT-SWAP") is None
    assert instrument_by_name(HYPERLIQUID, "xyz:AAPL") is not None


def binance_symbol(symbol: str, base: str, quote: str, margin: str, kind: str) -> dict[str, str]:
    return {
        "symbol": symbol,
        "contractType": kind,
        "baseAsset": base,
        "quoteAsset": quote,
        "marginAsset": margin,
    }


def test_binance_perpetuals_from_the_venues_fields() -> None:
    payload = {
        "symbols": [
            binance_symbol("BTCUSDT", "BTC", "USDT", "USDT", "PERPETUAL"),
            binance_symbol("AAPLUSDT", "AAPL", "USDT", "USDT", "TRADIFI_PERPETUAL"),
            binance_symbol("ETHBTC", "ETH", "BTC", "BTC", "PERPETUAL"),
            binance_symbol("BTCUSDT_261225", "BTC", "USDT", "USDT", "CURRENT_QUARTER"),
            {**binance_symbol("X", "BTC", "USD", "BTC", "PERPETUAL"), "contractSize": 100},
            binance_symbol("", "", "", "", ""),  # listed before it is specified
        ]
    }
    assert [
        (i.native, i.symbol, i.contract_size, i.inverse) for i in instruments_from(BINANCE, payload)
    ] == [
        ("BTCUSDT", "perpetual-BTC-USDT:USDT", 1.0, False),
        ("AAPLUSDT", "perpetual-AAPL-USDT:USDT", 1.0, False),
        ("ETHBTC", "perpetual-ETH-BTC:BTC", 1.0, False),
        ("X", "perpetual-BTC-USD:BTC", 100.0, True),
    ]


def okx_swap(native: str, settle: str, value: str, kind: str = "linear") -> dict[str, str]:
    return {
        "instType": "SWAP",
        "instId": native,
        "settleCcy": settle,
        "ctType": kind,
        "ctVal": value,
        "ctMult": "1",
    }


def test_okx_swaps_from_the_venues_fields() -> None:
    payload = {
        "code": "0",
        "msg": "",
        "data": [
            okx_swap("BTC-USDT-SWAP", "USDT", "0.01"),
            okx_swap("BTC-USD-SWAP", "BTC", "100", "inverse"),
            okx_swap("BTC-USD_UM-SWAP", "USDC", "0.01"),
            {**okx_swap("BABYDOGE-USDT-SWAP", "USDT", "1000000"), "ctMult": "1000"},
            {"instType": "SPOT", "instId": "BTC-USDT"},
        ],
    }
    assert [(i.symbol, i.contract_size, i.inverse) for i in instruments_from(OKX, payload)] == [
        ("perpetual-BTC-USDT:USDT", 0.01, False),
        ("perpetual-BTC-USD:BTC", 100.0, True),
        ("perpetual-BTC-USD:USD", 0.01, False),
        ("perpetual-BABYDOGE-USDT:USDT", 1e9, False),
    ]


def test_hyperliquid_dexes_keep_their_prefix_and_collateral() -> None:
    meta = {"universe": [{"name": "km:US500", "szDecimals": 3}], "collateralToken": 360}
    assert instruments_from(HYPERLIQUID, {"dex": "km", "meta": meta}) == [
        Instrument(HYPERLIQUID, "km:US500", "perpetual-KM:US500-USDH:USDH")
    ]
    bare = {"universe": [{"name": "kPEPE"}, {"name": "BTC"}]}
    assert [i.symbol for i in instruments_from(HYPERLIQUID, bare)] == [
        "perpetual-KPEPE-USDC:USDC",
        "perpetual-BTC-USDC:USDC",
    ]


@pytest.mark.parametrize(
    ("exchange", "payload", "named"),
    [
        (BINANCE, [], "not an object"),
        (BINANCE, {"symbols": None}, "'symbols'"),
        (BINANCE, {"symbols": [1]}, "'symbols'"),
        (BINANCE, {"symbols": [{"contractType": "PERPETUAL"}]}, "'symbol'"),
        (OKX, {"code": "51001", "data": [], "msg": "doesn't exist"}, "51001"),
        (OKX, {"code": "0", "data": [okx_swap("BTC-USDT-SWAP", "USDT", "")]}, "'ctVal'"),
        (OKX, {"code": "0", "data": [okx_swap("BTC-USDT-SWAP", "USDT", "nan")]}, "'ctVal'"),
        (OKX, {"code": "0", "data": [okx_swap("BTC-USDT-SWAP", "USDT", "1", "")]}, "ctType"),
        (HYPERLIQUID, {"universe": [{}]}, "'name'"),
        (HYPERLIQUID, {"universe": [], "collateralToken": 7}, "collateral token 7"),
        (HYPERLIQUID, {"dex": "xyz", "meta": {"universe": [{"name": "BTC"}]}}, "'xyz'"),
        ("bybit", {}, "'bybit'"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(exchange: str, payload: object, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        instruments_from(exchange, payload)


def test_a_dex_of_unknown_collateral_is_left_out_by_name() -> None:
    universe = [{"name": "new:TSLA", "szDecimals": 3}]
    payload = {"dex": "new", "meta": {"universe": universe, "collateralToken": 999}}
    listed, problems = listed_from(HYPERLIQUID, payload)
    assert listed == []
    (problem,) = problems
    assert "dex 'new' is left out: collateral token 999; known 0 USDC" in problem


def test_partitions_are_a_stable_hash() -> None:
    symbol = "perpetual-BTC-USDT:USDT"
    assert partition_of(BINANCE, symbol, 16) == zlib.crc32(f"{BINANCE}|{symbol}".encode()) % 16
    assert {partition_of(BINANCE, f"s{i}", 4) for i in range(100)} == {0, 1, 2, 3}


def test_recorded_okx_instruments() -> None:
    linear = orjson.loads(recorded("okx/swap_USDC-USDT-SWAP.json").read_bytes())
    assert instruments_from(OKX, linear) == [
        Instrument(OKX, "USDC-USDT-SWAP", "perpetual-USDC-USDT:USDT", 10.0, False)
    ]
    inverse = orjson.loads(recorded("okx/swap_BTC-USD-SWAP.json").read_bytes())
    assert instruments_from(OKX, inverse) == [
        Instrument(OKX, "BTC-USD-SWAP", "perpetual-BTC-USD:BTC", 100.0, True)
    ]
    with pytest.raises(ValueError, match=r"51001.*doesn't exist"):
        instruments_from(OKX, orjson.loads(recorded("okx/swap_unknown.json").read_bytes()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(exchange=st.sampled_from([BINANCE, OKX, HYPERLIQUID]), field=st.integers(0, 7), value=JSON)
def test_any_list_is_read_or_refused(exchange: str, field: int, value: object) -> None:
    entry: dict[str, object] = {
        **binance_symbol("BTCUSDT", "BTC", "USDT", "USDT", "PERPETUAL"),
        **okx_swap("BTC-USDT-SWAP", "USDT", "0.01"),
        "name": "BTC",
    }
    entry[list(entry)[field]] = value
    top = {"symbols": [entry], "code": "0", "data": [entry], "universe": [entry]}
    for payload in (top, {**top, "collateralToken": value}, {**top, "dex": value}, value):
        with contextlib.suppress(ValueError):
            instruments_from(exchange, payload)
