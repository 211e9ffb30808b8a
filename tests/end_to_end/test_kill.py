"""kill -9 of the whole pipeline at random moments: nothing is lost, nothing is there twice."""

import asyncio
import random
import signal
import time

import pytest

from ingest.ticks import LIVE
from tests.aggregate import reference
from tests.end_to_end.processes import (
    STREAMS,
    logged_ticks,
    published,
    simulator,
    start_perpflow,
    wait_until,
    write_settings,
)

NS = 10**9
SEED = 20261121
SPAN_S = 60
DATASETS = ("flow", "ohlcv", "vtwap", "l1_imbalance", "l1_liquidity", "l1_price")


@pytest.mark.xdist_group("kill")
@pytest.mark.parametrize(
    ("kills", "lateness_s"), [(8, 60), pytest.param(20, 120, marks=pytest.mark.nightly)]
)
async def test_killed_at_random_the_bars_are_those_of_an_uninterrupted_run(
    tmp_path, kills, lateness_s
):
    print(f"seed {SEED}")
    moments = random.Random(SEED)
    start = int(time.time()) + 12
    market = ("--seed", SEED, "--start", start * NS, "--span", SPAN_S, "--intensity", 2)
    options = (*market, "--hold", "--streams", STREAMS, "--resend", 5)
    with simulator(*options) as (sim_a, port_a), simulator(*options) as (sim_b, port_b):
        configs = []
        for name, port in (("killed", port_a), ("whole", port_b)):
            (tmp_path / name).mkdir()
            config = write_settings(tmp_path / name, port, lateness=f"{lateness_s}s")
            configs.append(config)
        whole = start_perpflow(configs[1])
        killed = start_perpflow(configs[0])
        try:
            log = configs[0].parent / "run.log"
            wait_until(lambda: log.read_bytes().count(b'"subscribed"') == 3, 12, "subscriptions")
            await asyncio.sleep(max(0.0, start + 2 - time.time()))
            for _ in range(kills):
                killed.kill()
                killed.wait()
                killed = start_perpflow(configs[0])
                await asyncio.sleep(moments.uniform(0.3, 4.0))
            for process in (sim_a, sim_b):
                assert process.stdout.readline().strip() == "end of feed"
            # Every window that ended within the market has closed once this much has passed.
            closing = time.time() + lateness_s + 3
            wait_until(lambda: time.time() > closing, lateness_s + 10, "lateness")
            for process in (killed, whole):
                process.send_signal(signal.SIGTERM)
            assert killed.wait(10) == 0
            assert whole.wait(10) == 0
        finally:
            for process in (killed, whole):
                process.kill()
                process.wait()

    for dataset in DATASETS:
        for interval in ("1s", "15s", "30s"):
            assert_same_exchange_bars(tmp_path, dataset, interval, start + SPAN_S)
    await assert_every_logged_tick_once(tmp_path / "killed")


def assert_same_exchange_bars(directory, dataset, interval, end):
    seconds = reference.SECONDS[interval]
    got, want = (
        {
            key: {at: row for at, row in series.items() if at + seconds <= end}
            for key, series in published(
                directory / name / "bars", dataset, interval, "exchange"
            ).items()
        }
        for name in ("killed", "whole")
    )
    assert len(want) == STREAMS // 2, f"{dataset}: {sorted(want)}"
    rows = sum(map(len, want.values()))
    assert rows > 2 * SPAN_S // seconds, (dataset, interval, rows)
    assert got == want


async def assert_every_logged_tick_once(directory, symbols=STREAMS // 2):
    """True-clock 1s bars hold each live tick of the log, in its earliest copy, exactly once."""
    trades, quotes, covered = await logged_ticks(directory / "perpflow.db")
    assert len({t["identity"] for t in trades}) < len(trades), "nothing was pushed twice"
    want = reference.bars(
        [t for t in trades if t["origin"] == LIVE], [q for q in quotes if q["origin"] == LIVE]
    )
    for dataset in DATASETS:
        got = published(directory / "bars", dataset, "1s", "true")
        assert len(got) == symbols, (dataset, sorted(got))
        assert sum(map(len, got.values())) > symbols, dataset
        for key, series in got.items():
            rows = {
                at: row
                for at, row in want[dataset, key, "1s", "true"].items()
                if at * NS >= covered[key]
            }
            assert series.keys() == rows.keys(), (dataset, key)
            for at, row in rows.items():
                for name, value in row.items():
                    if name.endswith("_count") or name in ("open", "high", "low", "close"):
                        assert series[at][name] == repr(value), (dataset, key, at, name)
                    elif name.endswith("volume") and "order" not in name:
                        assert float(series[at][name]) == pytest.approx(value, rel=1e-12)
                    elif name == "imbalance":
                        assert series[at][name] == repr(value), (dataset, key, at, name)
