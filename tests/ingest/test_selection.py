"""ingest/selection.py: patterns over native ids, Atlas ids and pairs."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.instruments import BINANCE, HYPERLIQUID, OKX, Instrument, Listed
from ingest.selection import dexes_of, select


def listed(exchange: str, native: str, symbol: str, status: str | None = None) -> Listed:
    usual = {BINANCE: "TRADING", OKX: "live", HYPERLIQUID: "listed"}[exchange]
    return Listed(Instrument(exchange, native, f"perpetual-{symbol}"), status or usual)


BINANCE_LIST = [
    listed(BINANCE, "BTCUSDT", "BTC-USDT:USDT"),
    listed(BINANCE, "BTCUSDC", "BTC-USDC:USDC"),
    listed(BINANCE, "ETHUSDT", "ETH-USDT:USDT"),
    listed(BINANCE, "BTCDOMUSDT", "BTCDOM-USDT:USDT", "SETTLING"),
    listed(BINANCE, "NEWUSDT", "NEW-USDT:USDT", "PENDING_TRADING"),
]
OKX_LIST = [
    listed(OKX, "BTC-USDT-SWAP", "BTC-USDT:USDT"),
    listed(OKX, "BTC-USD-SWAP", "BTC-USD:BTC"),
    listed(OKX, "BTC-USD_UM-SWAP", "BTC-USD:USD"),
    listed(OKX, "BTC-USD_UM_XPERP-SWAP", "BTC-USD:USD"),
    listed(OKX, "OLD-USDT-SWAP", "OLD-USDT:USDT", "suspend"),
]
HYPERLIQUID_LIST = [
    listed(HYPERLIQUID, "BTC", "BTC-USDC:USDC"),
    listed(HYPERLIQUID, "kPEPE", "KPEPE-USDC:USDC"),
    listed(HYPERLIQUID, "xyz:TSLA", "XYZ:TSLA-USDC:USDC"),
    listed(HYPERLIQUID, "xyz:A*", "XYZ:A*-USDC:USDC"),
    listed(HYPERLIQUID, "xyz:AB", "XYZ:AB-USDC:USDC"),
    listed(HYPERLIQUID, "OX", "OX-USDC:USDC", "delisted"),
]


@pytest.mark.parametrize(
    ("items", "patterns", "natives"),
    [
        (BINANCE_LIST, ["BTC*"], ["BTCUSDT", "BTCUSDC"]),
        (BINANCE_LIST, ["all"], ["BTCUSDT", "BTCUSDC", "ETHUSDT"]),
        (BINANCE_LIST, ["*-USDT"], ["BTCUSDT", "ETHUSDT"]),
        (BINANCE_LIST, ["ETHUSDT", "BTC*", "all"], ["ETHUSDT", "BTCUSDT", "BTCUSDC"]),
        (BINANCE_LIST, ["perpetual-BTC-USDC:USDC"], ["BTCUSDC"]),
        (BINANCE_LIST, ["perpetual-*:USDC"], ["BTCUSDC"]),
        (OKX_LIST, ["*-USDT-SWAP"], ["BTC-USDT-SWAP"]),
        (OKX_LIST, ["*-USD"], ["BTC-USD-SWAP", "BTC-USD_UM-SWAP"]),
        (HYPERLIQUID_LIST, ["all"], ["BTC", "kPEPE", "xyz:TSLA", "xyz:A*", "xyz:AB"]),
        (HYPERLIQUID_LIST, ["xyz:T*", "k*"], ["xyz:TSLA", "kPEPE"]),
        (HYPERLIQUID_LIST, ["xyz:A*"], ["xyz:A*"]),  # a name before it is a pattern
    ],
)
def test_patterns_select_what_trades(
    items: list[Listed], patterns: list[str], natives: list[str]
) -> None:
    selection = select(items, patterns)
    assert [i.native for i in selection.instruments] == natives
    assert selection.unmatched == ()


def test_patterns_that_select_nothing_are_named_with_the_reason() -> None:
    patterns = ["DOGE*", "BTCUSDT", "BTCUSD", "BTCDOMUSDT", "NEW*", "btcusdt", "BTC-USDT"]
    selection = select(BINANCE_LIST, patterns)
    assert [i.native for i in selection.instruments] == ["BTCUSDT"]
    assert [text.partition(" ")[0] for text in selection.unmatched] == [
        *("'DOGE*'", "'BTCUSD'", "'BTCDOMUSDT'", "'NEW*'", "'btcusdt'", "'BTC-USDT'")
    ]
    assert "did you mean 'BTCUSD" in selection.unmatched[1]
    assert "not trading: SETTLING" in selection.unmatched[2]
    assert "not trading: PENDING_TRADING" in selection.unmatched[3]


def test_of_two_with_one_atlas_id_the_first_asked_for_is_taken_and_the_other_named() -> None:
    selection = select(OKX_LIST, ["all"])
    natives = [i.native for i in selection.instruments]
    assert natives == ["BTC-USDT-SWAP", "BTC-USD-SWAP", "BTC-USD_UM-SWAP"]
    assert selection.doubled == ("'BTC-USD_UM_XPERP-SWAP' has the Atlas id of 'BTC-USD_UM-SWAP'",)
    wanted = select(OKX_LIST, ["BTC-USD_UM_XPERP-SWAP", "all"])
    assert wanted.instruments[0].native == "BTC-USD_UM_XPERP-SWAP"
    assert "'BTC-USD_UM-SWAP' has" in wanted.doubled[0]


@pytest.mark.parametrize(
    ("patterns", "dexes", "needed"),
    [
        (["BTC"], [], [""]),
        (["xyz:TSLA", "xyz:*"], [], ["xyz"]),
        (["BTC*", "km:US500"], ["xyz"], ["", "km", "xyz"]),
        (["all"], ["xyz"], ["", "xyz"]),
        (["perpetual-XYZ:TSLA-USDC:USDC"], [], ["xyz"]),
        (["perpetual-BTC-USDC:USDC", "perpetual-*:USDC", "*:*"], [], [""]),
    ],
)
def test_the_dexes_that_patterns_need(
    patterns: list[str], dexes: list[str], needed: list[str]
) -> None:
    assert dexes_of(HYPERLIQUID, patterns, dexes) == needed
    assert dexes_of(BINANCE, patterns, []) == [""]


STATUSES = st.sampled_from(["TRADING", "SETTLING", "BREAK", ""])
NAMES = st.text("ABC*?[]", min_size=1, max_size=4)


@given(st.dictionaries(NAMES, STATUSES, max_size=8), st.lists(NAMES | st.just("all"), max_size=5))
def test_what_is_selected_trades_and_every_pattern_selects_or_is_named(
    names: dict[str, str], patterns: list[str]
) -> None:
    items = [listed(BINANCE, n, f"{n}-USDT:USDT", status) for n, status in names.items() if status]
    selection = select(items, patterns)
    chosen = [i.native for i in selection.instruments]
    assert len(set(chosen)) == len(chosen)
    trading = [i.instrument.native for i in items if i.trading]
    assert set(chosen) <= set(trading)
    if "all" in patterns:
        assert set(chosen) == set(trading)
    for native in chosen:
        assert any(p in ("all", native) or fnmatchcase(native, p) for p in patterns)
    told = {text.rpartition("'")[0] for text in selection.unmatched}
    assert len(told) <= len(set(patterns))
    selecting = [p for p in patterns if select(items, [p]).instruments]
    assert len(selection.unmatched) == len(patterns) - len(selecting)
