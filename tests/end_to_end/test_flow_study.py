"""Six months of one symbol, replayed from a seeded archive, studied with the public client."""

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import duckdb
import httpx
import numpy as np
import polars as pl
import pytest
from PIL import Image

from ingest.simulator.spans import record_span
from publish.keys import KeyFile
from publish.replay.command import ReplayOptions, replay
from tests.end_to_end.processes import wait_until

SEED = 20261123
NS = 10**9
START = 1_772_323_200  # 2026-03-01
DAYS = 184
INTENSITY = 0.0005  # about 12 trades an hour
SCRIPT = Path(__file__).parents[2] / "examples" / "flow_study.py"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    print(f"seed {SEED}")
    directory = tmp_path_factory.mktemp("six_months")
    recording = directory / "btc.gz"
    record_span(
        recording,
        "binance-futures",
        natives=["BTCUSDT"],
        seed=SEED,
        start_ns=(START - 5) * NS,
        seconds=DAYS * 86_400 + 10,
        intensity=INTENSITY,
    )
    replay(ReplayOptions([recording], "binance-futures", f"file://{directory}/bars"))
    return directory


def test_the_study_draws_what_the_files_hold(store: Path) -> None:
    key = KeyFile(store / "keys.json").add("researcher", "standard")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = [
        f"publish.url=file://{store}/bars",
        f"api.keys={store}/keys.json",
        f"api.port={port}",
    ]
    command = [sys.executable, "-m", "perpflow", "serve"]
    command += [part for setting in settings for part in ("--set", setting)]
    api = f"http://127.0.0.1:{port}/api/v1"
    with subprocess.Popen(command) as server:
        try:
            wait_until(lambda: _answers(f"{api}/metadata/catalog", key), 30, "the API")
            dates = ["--start", "2026-03-01", "--end", "2026-08-31"]
            study = [sys.executable, str(SCRIPT), "--key", key, *dates, "--out", f"{store}/study"]
            environment = {**os.environ, "APERIODIC_API_URL": api}
            done = subprocess.run(study, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        finally:
            server.terminate()
    _assert_pictures(store / "study")
    _assert_numbers(store)


def _answers(url: str, key: str) -> bool:
    try:
        return httpx.get(url, headers={"X-API-KEY": key}).status_code == 200
    except httpx.TransportError:
        return False


def _assert_pictures(study: Path) -> None:
    for name in ("cumulative_delta", "ratios", "week"):
        with Image.open(study / f"{name}.png") as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
            assert image.width >= 1000
        # Not an empty frame: lines and patches of many colours on white.
        assert (pixels == 255).all(axis=1).mean() < 0.97
        assert len(np.unique(pixels, axis=0)) > 100


def _assert_numbers(store: Path) -> None:
    """The study's own columns, computed once more by DuckDB from the month files."""
    files = f"{store}/bars/metrics/{{}}/*/*/interval=1h/timestamp=true/*/*/*.parquet"
    query = f"""
        SELECT time, close, volume_delta,
            sum(volume_delta) OVER (ORDER BY time) AS cumulative_delta,
            sum(taker_buy_volume) OVER w / sum(taker_sell_volume) OVER w AS buy_sell_day
        FROM read_parquet('{files.format("ohlcv")}') AS o
            JOIN read_parquet('{files.format("flow")}') AS f USING (time)
        WINDOW w AS (ORDER BY time ROWS 23 PRECEDING) ORDER BY time
    """
    with closing(duckdb.connect()) as database:
        expected = database.sql(query).pl()
    found = pl.read_parquet(store / "study" / "study.parquet")
    assert len(found) > 4000
    assert found["time"].equals(expected["time"])
    for name in ("close", "volume_delta", "cumulative_delta"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-6)
    # The first day has no whole day behind it.
    np.testing.assert_allclose(found["buy_sell_day"][23:], expected["buy_sell_day"][23:], rtol=1e-9)
