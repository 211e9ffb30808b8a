"""The daemons as an operator meets them: ready when they are, told on /metrics, one an identity."""

import math
import re
import time
from pathlib import Path

import httpx

from ingest.simulator import EXCHANGES
from publish import metrics_table
from tests.end_to_end.deployment import Daemon, deployment
from tests.end_to_end.processes import published, simulator, wait_until, write_settings
from tests.publish.conftest import free_ports

SEED = 11
DEADLINE_S = 60.0
DAEMONS = ("ingest", "aggregate", "publish", "serve")


def page(daemon: Daemon) -> str:
    return httpx.get(f"http://127.0.0.1:{daemon.port}/metrics").raise_for_status().text


def more(folder: Path) -> str:
    api, stream = free_ports(2)
    return f'[api]\nport = {api}\nstream_port = {stream}\nkeys = "{folder}/keys.json"'


def test_every_daemon_is_ready_is_told_of_and_stops(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    (port,) = free_ports(1)
    config = write_settings(tmp_path, port, more=more(tmp_path))
    with deployment(config) as running:
        ingest = running.start("ingest")
        wait_until(lambda: answers(ingest), DEADLINE_S, "/healthz")
        assert not ingest.ready, "ready before there is a venue"
        with simulator("--seed", SEED, "--port", port):
            for name in DAEMONS[1:]:
                running.start(name, *(["runtime.uvloop=false"] if name == "aggregate" else []))
            running.wait_ready(DEADLINE_S)
            bars = tmp_path / "bars"
            wait_until(lambda: published(bars, "ohlcv", "1s", "exchange"), DEADLINE_S, "files")
            assert_told(running.daemons)
            took = {name: running.daemons[name].stop() for name in DAEMONS}
    print(f"stopped: {took}")


def answers(daemon: Daemon) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{daemon.port}/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def assert_told(daemons: dict[str, Daemon]) -> None:
    table = metrics_table.table()
    for name, daemon in daemons.items():
        text = page(daemon)
        loop = "asyncio" if name == "aggregate" else "uvloop"
        assert re.search(rf'perpflow_build_info{{event_loop="{loop}",.*version="[^"]+"}} 1', text)
        families = set(re.findall(r"^# TYPE (perpflow_\w+) ", text, re.MULTILINE))
        assert families
        assert all(f"| `{family}` |" in table for family in families)
        # Each is one process: its own page is all there is to know of it.
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children")
        assert children.read_text() == ""
        for sample in ("perpflow_ready", 'perpflow_event_loop_lag_seconds_count{loop="main"}'):
            assert value(text, sample) >= 1, (name, sample)
        assert not re.search(r"perpetual-|USDT", text), "a label names a symbol"

    wait_until(lambda: counted(daemons), DEADLINE_S, "every count has begun")
    now = time.time()
    text = page(daemons["ingest"])
    for exchange in EXCHANGES:
        for kind in ("trades", "quotes"):
            labels = f'exchange="{exchange}",kind="{kind}"'
            for stamp in ("event", "arrival"):
                fresh = value(text, f"perpflow_last_{stamp}_timestamp_seconds{{{labels}}}")
                assert abs(now - fresh) < DEADLINE_S
        of = f'{{exchange="{exchange}"'
        assert value(text, f'perpflow_connections{of},state="subscribed"}}') > 0
        assert value(text, f'perpflow_connections{of},state="connecting"}}') == 0
        assert value(text, f"perpflow_append_queue_peak_bytes{of}}}") > 0
        assert value(text, f"perpflow_append_queue_limit_bytes{of}}}") == 64 << 20
        assert value(text, f"perpflow_spool_limit_bytes{of}}}") == 1024 << 20
    for exchange in ("binance-futures", "okx-perps"):
        assert abs(value(text, f'perpflow_clock_offset_seconds{{exchange="{exchange}"}}')) < 10

    text = page(daemons["aggregate"])
    of = '{clock="exchange",interval="1s",le="5.25"}'  # lateness and hold: never before
    assert value(text, f"perpflow_bar_close_delay_seconds_bucket{of}") == 0
    assert value(text, "perpflow_takeover_seconds_count") == 2
    for name in ("aggregate_held_ticks", "open_windows", "aggregate_state_bytes"):
        assert max(value(text, f'perpflow_{name}{{partition="{p}"}}') for p in (0, 1)) > 0, name

    text = page(daemons["publish"])
    assert now - value(text, "perpflow_last_flush_timestamp_seconds") < DEADLINE_S
    assert value(text, 'perpflow_publish_lag_records{topic="bars"}') < 1000


COUNTED = {
    "ingest": {
        f"perpflow_{sample}": least
        for of in (f'exchange="{exchange}"' for exchange in EXCHANGES)
        for sample, least in {
            f'event_age_seconds_count{{{of},kind="trades"}}': 10,
            f'event_age_seconds_count{{{of},kind="quotes"}}': 10,
            f"received_bytes_total{{{of}}}": 10_000,
            f"append_seconds_count{{{of}}}": 10,
        }.items()
    },
    "aggregate": {
        'perpflow_bar_close_delay_seconds_count{clock="true",interval="1s"}': 2,
        'perpflow_bar_close_delay_seconds_count{clock="exchange",interval="1s"}': 2,
        "perpflow_commit_seconds_count": 3,
    },
    "publish": {
        'perpflow_files_written_total{tree="metrics_open"}': 10,
        'perpflow_store_operation_seconds_count{operation="write"}': 10,
    },
}


def counted(daemons: dict[str, Daemon]) -> bool:
    return all(
        sample_of(text, sample) >= least
        for name, samples in COUNTED.items()
        for text in [page(daemons[name])]
        for sample, least in samples.items()
    )


def value(text: str, sample: str) -> float:
    found = sample_of(text, sample)
    assert not math.isnan(found), f"no {sample}"
    return found


def sample_of(text: str, sample: str) -> float:
    """NaN if the page has no such sample."""
    found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else math.nan


def test_of_two_with_one_identity_one_goes_on(tmp_path: Path) -> None:
    """A collector and a server that come second are refused; a publisher takes the first's place
    (an aggregator too: test_daemons.py)."""
    print(f"seed {SEED}")
    with simulator("--seed", SEED) as (_, port):
        config = write_settings(tmp_path, port, more=more(tmp_path))
        with deployment(config) as running:
            for name in DAEMONS:
                running.start(name)
            running.wait_ready(DEADLINE_S)
            elsewhere = f"log.path={tmp_path}/perpflow.db", f"ingest.spool_dir={tmp_path}/other"
            second = running.start("ingest", *elsewhere, called="ingest-2")
            assert_refused(second, "another process collects [a-z-]+ as 'c1'")
            beside = running.start("serve", called="serve-2")
            assert_refused(beside, "can't listen on 127.0.0.1:")
            heir = running.start("publish", called="publish-2")
            first = running.daemons["publish"]
            assert_refused(first, "another perpflow has taken over the log")
            wait_until(lambda: heir.ready, DEADLINE_S, "the second publisher is ready")
            assert running.daemons["ingest"].ready
            for name in ("ingest", "serve", "aggregate", "publish-2"):
                running.daemons[name].stop()


def assert_refused(daemon: Daemon, why: str) -> None:
    assert daemon.process.wait(DEADLINE_S) == 1
    said = daemon.log.read_text()
    assert "Traceback" not in said
    assert re.search(why, said.splitlines()[-1]), said
