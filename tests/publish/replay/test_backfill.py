"""A backfill that is killed and begun again ends as one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from publish.store import Store
from tests.publish.replay.raw_archives import seeded, write_archive

SEED = 21
VENUES = ("binance-futures", "okx-perps", "hyperliquid-perps")
WHOLE = [date(2026, 8, 1) + timedelta(days=i) for i in range(31 + 30)]
"""The days of two months."""
EDGE = WHOLE[29:33]
"""Those over the edge between them."""


def write_seeded(store: Store, days: Sequence[date], symbols: int, ticks_a_day: int) -> None:
    made = [
        seeded(SEED, venue, f"perpetual-C{i}-USDT:USDT", days, ticks_a_day)
        for venue in VENUES
        for i in range(symbols)
    ]
    write_archive(store, made)


def command(archive: Path, out: Path, *more: str) -> list[str]:
    start = [sys.executable, "-m", "perpflow", "replay", str(archive), "--out", f"file://{out}"]
    return [*start, "--processes", "2", *more]


def finish(archive: Path, out: Path, *more: str) -> str:
    done = subprocess.run(
        command(archive, out, *more), capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifests(out: Path) -> dict[str, dict[str, Any]]:
    root = out / "metrics_manifest"
    return {
        str(path.relative_to(root)): json.loads(path.read_bytes()) for path in root.rglob("*.json")
    }


def kill_after(archive: Path, out: Path, finished: int) -> None:
    """Kill the replay and its workers, all at once, when so many manifests are there."""
    before = len(manifests(out))
    with subprocess.Popen(
        command(archive, out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 300
        while len(list(out.rglob("metrics_manifest/**/*.json"))) < before + finished:
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)  # its own group, which we started
    assert process.returncode == -signal.SIGKILL


def assert_a_killed_backfill_ends_the_same(
    tmp_path: Path, days: Sequence[date], symbols: int, kills: int
) -> None:
    archive, whole, broken = (tmp_path / name for name in ("archive", "whole", "broken"))
    write_seeded(Store(f"file://{archive}"), days, symbols, 300)
    finish(archive, whole)
    want = manifests(whole)
    units = len(VENUES) * symbols * 2
    assert len(want) == units * 120
    for _ in range(kills):
        # Two units are under way at a time: with so many one is finished, and not all are.
        kill_after(archive, broken, 2 * 120 + 1)
    text = finish(archive, broken)
    finished = text.partition(" months were finished before")[0].splitlines()[-1]
    assert kills <= int(finished) < units
    assert manifests(broken) == want
    for path in whole.rglob("metrics/**/*.parquet"):
        assert (broken / path.relative_to(whole)).read_bytes() == path.read_bytes()
    # And again: everything is finished, nothing is touched.
    stamps = {path: path.stat().st_mtime_ns for path in broken.rglob("*.parquet")}
    assert f"{units} months were finished before" in finish(archive, broken)
    assert {path: path.stat().st_mtime_ns for path in broken.rglob("*.parquet")} == stamps


def test_a_month_whose_ticks_changed_is_made_anew(tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_seeded(Store(f"file://{archive}"), EDGE, 1, 300)
    finish(archive, out)
    first = archive / "raw/trades"
    path = min(first.rglob("data.parquet"))
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(i) for i in range(file.num_row_groups)]
        schema = file.schema_arrow
    price = groups[0]["price"].to_numpy().copy()
    price[0] *= 1.5
    at = schema.get_field_index("price")
    groups[0] = groups[0].set_column(at, "price", pa.array(price))
    with pq.ParquetWriter(path, schema) as writer:
        for group in groups:
            writer.write_table(group)
    text = finish(archive, out, "--force")
    assert " months were finished before" in text
    finished = text.partition(" months were finished before")[0].splitlines()[-1]
    assert int(finished) == len(VENUES) * 2 - 1


def test_three_venues_over_the_end_of_a_month(tmp_path: Path) -> None:
    assert_a_killed_backfill_ends_the_same(tmp_path, EDGE, symbols=1, kills=1)


@pytest.mark.nightly
def test_two_whole_months_of_twenty_symbols(tmp_path: Path) -> None:
    assert_a_killed_backfill_ends_the_same(tmp_path, WHOLE, symbols=20, kills=5)
