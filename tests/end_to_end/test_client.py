"""The public client `aperiodic` against `perpflow serve`, over bars replayed of a simulated market.

Two hours around a month's end of one instrument: two month files of each series; the day after
lies in an open part.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import aperiodic
import httpx
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ingest.simulator.spans import record_span
from publish.catalog import METRICS
from publish.layout import Part, Series
from publish.merging import Position, Rows
from publish.partitions import read_series, write_part
from publish.replay.command import ReplayOptions, replay
from publish.store import Store
from tests.end_to_end.processes import wait_until
from tests.publish.conftest import free_ports
from tests.publish.serving import put_raw

SYMBOL = "perpetual-BTC-USDT:USDT"
EXCHANGE = "binance-futures"
FIRST, LAST, OPEN = date(2026, 10, 31), date(2026, 11, 1), date(2026, 11, 2)
README = Path(__file__).parents[2] / "README.md"
pytestmark = pytest.mark.xdist_group("client")  # one server for all


@dataclass(frozen=True)
class Served:
    url: str
    key: str
    directory: Path
    store: Store

    def keys(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "perpflow", "keys", *arguments]
        return subprocess.run(
            [*command, "--config", str(self.directory / "perpflow.toml")],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    def metrics(self, metric: str, output: str = "polars", **changes: object) -> object:
        asked = {
            "timestamp": "true",
            "interval": "1m",
            "exchange": EXCHANGE,
            "symbol": SYMBOL,
            "start_date": FIRST,
            "end_date": OPEN,
            "base_url": self.url,
            "show_progress": False,
        }
        return aperiodic.get_metrics(self.key, metric=metric, output=output, **(asked | changes))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("client")
    store = Store(f"file://{directory / 'bars'}")
    _bars(directory, store)
    for day in ("2026-10-31", "2026-11-01", "2026-11-02"):
        put_raw(store, "trades", day, SYMBOL)
        put_raw(store, "quotes", day, SYMBOL)
    [port] = free_ports(1)
    (directory / "perpflow.toml").write_text(
        f'[publish]\nurl = "{store.url}"\n[api]\nport = {port}\nkeys = "{directory}/keys.json"\n'
        f'previews = ["{EXCHANGE} {SYMBOL} 2026-11"]\n'
    )
    command = [sys.executable, "-m", "perpflow", "serve", "--config"]
    with (
        (directory / "out").open("wb") as out,
        (directory / "log").open("wb") as log,
        subprocess.Popen(
            [*command, str(directory / "perpflow.toml")], stdout=out, stderr=log
        ) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}/api/v1"
            wait_until(lambda: _answers(url), 60, "the API answers")
            [key] = re.findall(r"shown this once: (pf_\S+)", (directory / "out").read_text())
            yield Served(url, key, directory, store)
            process.terminate()
            assert process.wait(timeout=10) == 0
            logged = (directory / "log").read_text()
            assert "Traceback" not in logged
            assert key not in logged
        finally:
            process.kill()


def _bars(directory: Path, store: Store) -> None:
    start = int(datetime(2026, 10, 31, 23, tzinfo=UTC).timestamp()) - 5
    path = directory / "recording.gz"
    record_span(
        path,
        EXCHANGE,
        seed=1,
        start_ns=start * 10**9,
        seconds=7210,
        natives=["BTCUSDT"],
        intensity=0.05,
    )
    replay(ReplayOptions([path], EXCHANGE, store.url))
    for metric in METRICS:
        series = Series(metric, EXCHANGE, SYMBOL, "1m", "true")
        table = read_series(store, series, 2026, 11)
        day = pa.chunked_array([pa.array([timedelta(days=1)] * len(table), pa.duration("us"))])
        shifted = table.set_column(
            0, "time", pa.array(table["time"].to_numpy() + day.to_numpy().astype("m8[us]"))
        )
        rows = Rows(shifted, np.arange(len(shifted)), Position(0, len(shifted)))
        assert write_part(store, series, Part(OPEN), rows) == len(shifted) > 0


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/metadata/catalog").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("metric", METRICS)
def test_get_metrics_of_every_dataset(served: Served, metric: str) -> None:
    """All rows of two month files and an open part, with the catalog's columns and types."""
    frame = served.metrics(metric)
    assert isinstance(frame, pl.DataFrame)
    types = {"timestamp[us]": pl.Datetime("us"), "float64": pl.Float64(), "int64": pl.Int64()}
    assert dict(frame.schema) == {f.name: types[f.type] for f in METRICS[metric].fields}
    series = Series(metric, EXCHANGE, SYMBOL, "1m", "true")
    stored = [read_series(served.store, series, 2026, month) for month in (10, 11)]
    assert frame.equals(pl.from_arrow(pa.concat_tables(stored)), null_equal=True)
    assert [*frame["time"].dt.date().unique().sort()] == [FIRST, LAST, OPEN]
    assert frame["time"].is_unique().all()
    pandas = served.metrics(metric, "pandas")
    assert isinstance(pandas, pd.DataFrame)
    pd.testing.assert_frame_equal(pandas, frame.to_pandas(), check_dtype=False)


def test_dates_are_inclusive(served: Served) -> None:
    day = served.metrics("ohlcv", start_date=LAST, end_date=LAST)
    assert [*day["time"].dt.date().unique()] == [LAST]
    assert served.metrics(
        "ohlcv", start_date=date(2026, 12, 1), end_date=OPEN.replace(month=12)
    ).is_empty()


def test_prices_by_their_own_functions(served: Served) -> None:
    asked = {
        "timestamp": "exchange",
        "interval": "1h",
        "exchange": EXCHANGE,
        "symbol": SYMBOL,
        "start_date": FIRST,
        "end_date": LAST,
        "base_url": served.url,
        "show_progress": False,
    }
    ohlcv = aperiodic.get_ohlcv(served.key, **asked)
    assert len(ohlcv) == 2
    for get in (aperiodic.get_vwap, aperiodic.get_twap):
        prices = get(served.key, **asked)
        assert prices.columns == ["time", "vwap", "twap"]
        assert prices["vwap"].is_between(ohlcv["low"], ohlcv["high"]).all()


def test_get_symbols(served: Served) -> None:
    ask = aperiodic.get_symbols
    assert ask(served.key, EXCHANGE, base_url=served.url) == [SYMBOL]
    assert ask(served.key, "okx-perps", base_url=served.url) == []


@pytest.mark.parametrize("dataset", ["trades", "quotes"])
def test_raw(served: Served, dataset: str, tmp_path: Path) -> None:
    asked = {
        "dataset": dataset,
        "exchange": EXCHANGE,
        "symbol": SYMBOL,
        "start_date": FIRST,
        "end_date": LAST,
        "base_url": served.url,
        "show_progress": False,
    }
    frame = aperiodic.get_raw(served.key, **asked)
    assert frame["exchange_timestamp"].dtype == pl.Datetime("ns", "UTC")
    assert len(frame) == len(aperiodic.get_raw(served.key, output="pandas", **asked)) == 20
    paths = aperiodic.download_raw(served.key, output_dir=tmp_path, **asked)
    assert [path.parent.name for path in paths] == ["day=31", "day=01"]
    assert pl.concat([pl.read_parquet(path) for path in paths]).equals(frame)
    before = [path.stat().st_mtime_ns for path in paths]
    aperiodic.download_raw(served.key, output_dir=tmp_path, **asked)
    assert [path.stat().st_mtime_ns for path in paths] == before, "files of that size are kept"


def test_raw_coverage(served: Served) -> None:
    coverage = aperiodic.get_raw_coverage(base_url=served.url)
    found = coverage["coverage"]["trades"][EXCHANGE][SYMBOL]
    assert (found["first"], found["last"], found["missing"]) == ("2026-10-31", "2026-11-02", 0)


def test_preview_without_a_key(served: Served) -> None:
    asked = {"start_date": LAST, "end_date": OPEN}
    free = aperiodic.get_metrics(
        metric="flow",
        timestamp="true",
        interval="1m",
        exchange=EXCHANGE,
        symbol=SYMBOL,
        base_url=served.url,
        show_progress=False,
        preview=True,
        **asked,
    )
    assert free.equals(served.metrics("flow", **asked), null_equal=True)
    raw = aperiodic.get_raw(
        dataset="trades",
        exchange=EXCHANGE,
        symbol=SYMBOL,
        base_url=served.url,
        show_progress=False,
        preview=True,
        **asked,
    )
    assert len(raw) == 20
    with pytest.raises(aperiodic.APIError) as refused:
        served.metrics("flow", preview=True)
    assert (refused.value.status_code, refused.value.code) == (403, "not_in_preview")


def test_refusals_reach_the_caller(served: Served) -> None:
    asked = {
        "dataset": "trades",
        "exchange": EXCHANGE,
        "symbol": SYMBOL,
        "start_date": FIRST,
        "end_date": LAST,
        "base_url": served.url,
    }
    with pytest.raises(aperiodic.APIError) as refused:
        aperiodic.get_symbols("pf_00000000_wrong", EXCHANGE, base_url=served.url)
    assert refused.value.status_code == 401
    with pytest.raises(aperiodic.APIError) as refused:
        served.metrics("ohlcv", interval="7m", exchange="nyse")
    assert refused.value.status_code == 400
    assert len(refused.value.details) == 2
    prime = served.keys("add", "client", "--plan", "prime").strip()
    with pytest.raises(aperiodic.APIError) as refused:
        aperiodic.get_raw(prime, **asked)
    assert (refused.value.status_code, refused.value.code) == (403, "raw_not_in_plan")
    identity = prime.split("_")[1]
    assert identity in served.keys("list")
    served.keys("revoke", identity)

    def gone() -> bool:
        try:
            aperiodic.get_raw(prime, **asked)
        except aperiodic.APIError as error:
            return error.status_code == 401
        return False

    wait_until(gone, 10, "a revoked key is refused")


def test_an_expired_url_is_asked_for_again(served: Served, tmp_path: Path, monkeypatch) -> None:
    """The client's clockwork for raw files: 403, then a fresh URL."""
    from aperiodic.endpoints import raw

    original = raw.fetch_json
    expired = []

    async def first_expired(url: str, **more: object) -> dict:
        answer = await original(url, **more)
        if not expired:
            for file in answer["files"]:
                file["url"] = file["url"].replace("expires=1", "expires=0", 1)
                expired.append(file["url"])
        return answer

    monkeypatch.setattr(raw, "fetch_json", first_expired)
    paths = aperiodic.download_raw(
        served.key,
        dataset="trades",
        exchange=EXCHANGE,
        symbol=SYMBOL,
        start_date=FIRST,
        end_date=LAST,
        output_dir=tmp_path,
        base_url=served.url,
        show_progress=False,
    )
    assert len(expired) == len(paths) == 2
    assert httpx.get(expired[0]).status_code == 403


def test_the_readmes_lines(served: Served, tmp_path: Path) -> None:
    """As a user runs them: the address and the key from the environment."""
    [code] = re.findall(r"```python\n(import os\n.*?)```", README.read_text(), re.DOTALL)
    code = code.replace("date.today()", "date(2026, 11, 2)")
    environment = {"APERIODIC_API_URL": served.url, "APERIODIC_API_KEY": served.key}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "cumulative_delta" in result.stdout
