"""publish/instruments.py: the table and the JSON lines of what the venues list."""

from pathlib import Path

import orjson
import pytest

from ingest.instrument_cache import cache_path, save
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.simulator import EXCHANGES, Market, Simulator, market_feed
from ingest.universe import fetch_list
from publish.instruments import InstrumentsOptions, NoInstrumentsError, show_instruments
from publish.settings import Settings


def settings(url: str, log: Path, exchanges: tuple[str, ...] = EXCHANGES) -> Settings:
    venues = {name: {"symbols": ["all"], "rest_url": url} for name in exchanges}
    return Settings.model_validate({"log": {"path": log}, "venues": venues})


async def test_the_table_has_every_instrument_that_matches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feeds = {name: market_feed(Market(1, name)) for name in EXCHANGES}
    async with Simulator(feeds) as simulator:
        configured = settings(simulator.rest_url, tmp_path / "perpflow.db")
        options = InstrumentsOptions(patterns=["BTC*", "xyz:*"])
        await show_instruments(configured, options)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert " ".join(lines[0]) == "venue native id Atlas id contract size inverse status"
    assert lines[1:] == [
        [BINANCE, "BTCUSDT", "perpetual-BTC-USDT:USDT", "1", "no", "TRADING"],
        [OKX, "BTC-USDT-SWAP", "perpetual-BTC-USDT:USDT", "0.01", "no", "live"],
        [OKX, "BTC-USD-SWAP", "perpetual-BTC-USD:BTC", "100", "yes", "live"],
        [HYPERLIQUID, "BTC", "perpetual-BTC-USDC:USDC", "1", "no", "listed"],
        [HYPERLIQUID, "xyz:TSLA", "perpetual-XYZ:TSLA-USDC:USDC", "1", "no", "listed"],
    ]


async def test_json_lines_from_the_kept_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "perpflow.db"
    async with Simulator({OKX: market_feed(Market(1, OKX))}) as simulator:
        url = simulator.rest_url
        save(cache_path(log, OKX), await fetch_list(OKX, url))
    options = InstrumentsOptions(OKX, ["ETH-*"], cached=True, as_json=True)
    await show_instruments(settings(url, log, (OKX,)), options)
    assert [orjson.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {
            "venue": OKX,
            "native": "ETH-USDT-SWAP",
            "symbol": "perpetual-ETH-USDT:USDT",
            "contract_size": 0.1,
            "inverse": False,
            "status": "live",
        }
    ]


async def test_what_matches_nothing_and_what_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Simulator({OKX: market_feed(Market(1, OKX))}) as simulator:
        configured = settings(simulator.rest_url, tmp_path / "perpflow.db", (OKX,))
        with pytest.raises(NoInstrumentsError, match=r"okx-perps matches 'DOGE\*'"):
            await show_instruments(configured, InstrumentsOptions(patterns=["BTC*", "DOGE*"]))
        assert "BTC-USDT-SWAP" in capsys.readouterr().out
        with pytest.raises(NoInstrumentsError, match=r"okx-perps\.instruments\.json holds no"):
            await show_instruments(configured, InstrumentsOptions(cached=True))
