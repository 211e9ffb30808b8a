"""Which channels are granted, and how the others are refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publish.stream.channels import MAX_CHANNELS, MAX_SYMBOLS, Access, Channel, read

ALL = Access(live=["okx-perps", "hyperliquid-perps"], intervals=["1m", "1h"])


def _codes(asked: object, held: list[str] | None = None) -> list[str]:
    return [refused.code for refused in read(asked, ALL, dict.fromkeys(held or []))[1]]


def test_names_and_objects_are_granted() -> None:
    symbols = ["perpetual-BTC-USDT:USDT"]
    channel = {"dataset": "flow", "exchange": "okx-perps", "interval": "1h"}
    granted, rejected = read(
        ["ohlcv.okx-perps.1m", channel, channel | {"symbols": symbols}], ALL, {}
    )
    assert granted == [
        Channel("ohlcv.okx-perps.1m"),
        Channel("flow.okx-perps.1h"),
        Channel("flow.okx-perps.1h", frozenset(symbols)),
    ]
    assert rejected == []


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("nothing.okx-perps.1m", "unknown_channel"),
        ("ohlcv.mt-gox.1m", "unknown_channel"),
        ("ohlcv.okx-perps.7m", "unknown_channel"),
        ("ohlcv.binance-futures.1m", "not_live"),
        ("ohlcv.okx-perps.15s", "not_entitled"),
        ("ohlcv.okx-perps", "invalid_message"),
        ("", "invalid_message"),
        (7, "invalid_message"),
        (None, "invalid_message"),
        ({"dataset": "ohlcv", "exchange": "okx-perps"}, "invalid_message"),
        ({"dataset": "ohlcv", "exchange": "okx-perps", "interval": 1}, "invalid_message"),
    ],
)
def test_what_is_wrong_is_refused_by_its_code(asked: object, code: str) -> None:
    assert _codes([asked]) == [code]


@pytest.mark.parametrize("symbols", ["BTC", [], [1], ["x" * 201], ["x"] * 1001])
def test_symbols_are_a_list_of_some_ids(symbols: object) -> None:
    channel = {"dataset": "ohlcv", "exchange": "okx-perps", "interval": "1m", "symbols": symbols}
    assert _codes([channel]) == ["invalid_message"]


def test_no_more_channels_than_a_connection_may_have() -> None:
    held = [f"held.{n}.x" for n in range(MAX_CHANNELS - 1)]
    assert _codes(["ohlcv.okx-perps.1m", "ohlcv.okx-perps.1h"], held) == ["limit_exceeded"]
    assert _codes([held[0]], held) == ["unknown_channel"]
    full = [*held, "ohlcv.okx-perps.1m"]
    assert _codes(["ohlcv.okx-perps.1m"], full) == [], "it has this one already"


def test_no_more_symbols_of_a_channel_however_many_frames_name_them() -> None:
    of = {"dataset": "flow", "exchange": "okx-perps", "interval": "1h"}
    name = "flow.okx-perps.1h"
    many = frozenset(f"S{n}" for n in range(MAX_SYMBOLS - 1))
    two = [of | {"symbols": [symbol]} for symbol in ("A", "B")]
    granted, [refused] = read(two, ALL, {name: many})
    assert granted == [Channel(name, frozenset({"A"}))]
    assert (refused.channel, refused.code) == (name, "limit_exceeded")
    assert read([name], ALL, {name: many}) == ([Channel(name)], []), "all are no list of symbols"


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_any_json_is_answered(asked: object) -> None:
    try:
        granted, rejected = read(asked, ALL, {})
    except ValueError:
        assert not isinstance(asked, list) or not asked
        return
    assert isinstance(asked, list)
    assert len(granted) + len(rejected) == len(asked)
