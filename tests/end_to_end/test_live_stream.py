"""`perpflow run` with its stream: what the public client gets live is what the files hold."""

import signal
import socket
import threading
import time

import aperiodic

from ingest.simulator import EXCHANGES
from tests.end_to_end.processes import (
    published,
    simulator,
    start_perpflow,
    wait_until,
    write_settings,
)

SEED = 20261122
SPAN_S = 5
DATASETS = ("flow", "l1_price")


def test_the_client_gets_live_what_the_files_hold(tmp_path) -> None:
    print(f"seed {SEED}")
    port = _free_port()
    api = f'[api]\nport = {_free_port()}\nstream_port = {port}\nkeys = "{tmp_path}/keys.json"'
    start = int(time.time()) + 6
    options = ("--seed", SEED, "--start", start * 10**9, "--intensity", 2)
    with simulator(*options) as (_, venues):
        perpflow = start_perpflow(write_settings(tmp_path, venues, more=api))
        try:
            rows = _stream(tmp_path, port)
            perpflow.send_signal(signal.SIGTERM)
            assert perpflow.wait(10) == 0
        finally:
            perpflow.kill()
            perpflow.wait()
    files = {dataset: published(tmp_path / "bars", dataset, "1s", "true") for dataset in DATASETS}
    assert len(rows) > SPAN_S * len(EXCHANGES)
    assert {channel.split(".")[1] for channel, _ in rows} == set(EXCHANGES)
    for channel, row in rows:
        dataset, exchange, _ = channel.split(".")
        symbol, time_us = row.pop("symbol"), row.pop("time")
        assert row.pop("interval") == "1s"
        bars = files[dataset][exchange, symbol]
        assert {name: repr(value) for name, value in row.items()} == bars[time_us // 1_000_000]


def _stream(directory, port: int) -> list:
    """(channel, row) of every row until one starts `SPAN_S` after the first."""
    log = directory / "run.log"
    wait_until(lambda: b"live stream is served" in log.read_bytes(), 20, "the stream")
    key = log.read_text().partition("API key, shown this once: ")[2].split()[0]
    channels = [f"{dataset}.{exchange}.1s" for dataset in DATASETS for exchange in EXCHANGES]
    stream = aperiodic.stream(
        key, channels=channels, snapshot=False, stream_url=f"ws://127.0.0.1:{port}/v1/stream"
    )
    deadline = threading.Timer(60, stream.close)
    deadline.start()
    rows = []
    with stream:
        for message in stream:
            rows.append((message.channel, dict(message.data)))
            if message.data["time"] >= rows[0][1]["time"] + SPAN_S * 1_000_000:
                break
        else:
            raise AssertionError(f"only {len(rows)} rows within a minute")
    deadline.cancel()
    assert stream.gaps == []
    return rows


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
