"""ingest/instrument_cache.py: what is saved comes back, and what is not whole is passed over."""

from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.instrument_cache import cache_path, load, save
from ingest.instruments import BINANCE, HYPERLIQUID, OKX, Instrument, Listed
from ingest.universe import InstrumentList

URL = "https://example.invalid"


def found(exchange: str = OKX, dexes: tuple[str, ...] = ("",)) -> InstrumentList:
    swap = Instrument(exchange, "BTC-USD-SWAP", "perpetual-BTC-USD:BTC", 100.0, inverse=True)
    old = Instrument(exchange, "OLD-USDT-SWAP", "perpetual-OLD-USDT:USDT", 0.1)
    listed = (Listed(swap, "live"), Listed(old, "suspend"))
    return InstrumentList(exchange, URL, dexes, 1_790_000_000_000_000_001, listed)


def test_a_saved_list_comes_back(tmp_path: Path) -> None:
    path = cache_path(tmp_path / "perpflow.db", OKX)
    assert path == tmp_path / "perpflow.okx-perps.instruments.json"
    assert load(path, OKX, URL, ("",)) is None
    save(path, found())
    assert load(path, OKX, URL, ("",)) == found()
    assert list(tmp_path.iterdir()) == [path]


def test_a_list_of_another_address_venue_or_of_fewer_dexes_is_of_no_use(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    save(path, found(HYPERLIQUID, ("", "xyz")))
    assert load(path, HYPERLIQUID, URL, ("xyz",)) is not None
    assert load(path, HYPERLIQUID, URL, ("", "km")) is None
    assert load(path, HYPERLIQUID, "http://127.0.0.1:1", ("",)) is None
    assert load(path, BINANCE, URL, ("",)) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_passed_over(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "list.json"
    save(path, found())
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:cut] + data.draw(st.binary(max_size=3)))
    assert load(path, OKX, URL, ("",)) in (None, found())
    body = orjson.loads(whole)
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(
        st.none() | st.integers(-9, 9) | st.text() | st.lists(st.integers(-9, 9), max_size=2)
    )
    path.write_bytes(orjson.dumps(body))
    load(path, OKX, URL, ("",))


def test_a_directory_that_is_not_there_is_told_and_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "nowhere" / "list.json", found())
    assert "can't keep the instruments" in capsys.readouterr().out
