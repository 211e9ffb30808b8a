"""Keys of month files and of open parts."""

from datetime import date

import pytest

from publish.layout import Part, Series, month_key, parse_part_key, part_key
from tests.publish.bars import at, series
from tests.publish.part_rows import DAY, S


def test_keys_are_the_documented_layout() -> None:
    assert month_key(S, 2026, 1) == (
        "metrics/ohlcv/exchange=binance-futures/symbol=perpetual-BTC-USDT:USDT/interval=1m"
        "/timestamp=true/year=2026/month=01/data.parquet"
    )
    assert part_key(S, date(2026, 11, 5)) == (
        "metrics_open/ohlcv/exchange=binance-futures/symbol=perpetual-BTC-USDT:USDT/interval=1m"
        "/timestamp=true/year=2026/month=11/day=05/data.parquet"
    )


@pytest.mark.parametrize(
    "symbol", ["perpetual-xyz:TSLA-USDC:USDC", "a/b", "50%", "x=y", "币安", "a b"]
)
def test_every_symbol_has_a_safe_key_and_comes_back(symbol: str) -> None:
    key = part_key(Series("flow", "e", symbol, "1s", "exchange"), DAY)
    assert key.isascii()
    assert len(key.split("/")) == 10
    assert parse_part_key(key) == (Series("flow", "e", symbol, "1s", "exchange"), Part(DAY))


@pytest.mark.parametrize("key", ["", "metrics_open/x", month_key(S, 2026, 11), "a/b=1/c"])
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="is not the key of an open part"):
        parse_part_key(key)


def test_a_part_of_1s_bars_holds_an_hour_and_of_others_a_day() -> None:
    second = 1_000_000 * at("2026-11-20 23:59:59")
    for interval, part in (("1s", Part(DAY, 23)), ("15s", Part(DAY)), ("1d", Part(DAY))):
        assert Part.of(interval, second) == part
    assert Part.of("1s", second + 1_000_000) == Part(date(2026, 11, 21), 0)
    key = part_key(series(interval="1s"), DAY, 7)
    assert key.endswith("/month=11/day=20/hour=07/data.parquet")
    assert parse_part_key(key) == (series(interval="1s"), Part(DAY, 7))
