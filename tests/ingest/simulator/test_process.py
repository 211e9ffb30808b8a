"""The simulator as a process, and a client of it that is killed."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ingest.simulator import EXCHANGES, record_span
from ingest.simulator.listings import BINANCE
from tests.ingest.simulating import START, eventually, frames

ROOT = Path(__file__).parents[3]
RECEIVER = """
import asyncio, sys
from websockets.asyncio.client import connect

async def main(url, path, *streams):
    names = ",".join('"%s"' % s for s in streams)
    async with connect(url, compression=None) as socket:
        await socket.send('{"method":"SUBSCRIBE","params":[%s],"id":1}' % names)
        with open(path, "a") as out:
            async for frame in socket:
                out.write(frame + "\\n")
                out.flush()

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def simulator(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the address it listens on; stopped with SIGTERM."""
    command = [sys.executable, "-m", "ingest.simulator", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("listening on 127.0.0.1:"), line
            yield process, line.split()[-1]
        finally:
            process.terminate()
            assert process.wait(10) == 0


def whole_lines(path: Path) -> list[str]:
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def test_it_says_where_it_listens_and_when_the_feed_ends() -> None:
    with simulator("--span", "1", "--speed", "inf") as (process, _):
        assert process.stdout is not None
        assert process.stdout.readline() == "end of feed\n"


def test_it_serves_recordings(tmp_path: Path) -> None:
    options = []
    for exchange in EXCHANGES:
        path = tmp_path / exchange
        record_span(path, exchange, seed=3, start_ns=START, seconds=10)
        options += ["--recording", f"{exchange}={path}"]
    with simulator(*options, "--speed", "inf") as (process, _):
        assert process.stdout is not None
        assert process.stdout.readline() == "end of feed\n"


async def test_a_client_that_is_killed_misses_nothing(tmp_path: Path) -> None:
    streams = ["btcusdt@trade", "btcusdt@bookTicker", "ethusdt@trade", "ethusdt@bookTicker"]
    expected = [frame.decode() for frame in frames(BINANCE, 60, streams)]
    log = tmp_path / "received"
    options = ["--exchange", BINANCE, "--seed", "7", "--start", str(START), "--span", "60"]
    options += ["--speed", "25", "--hold", "--resend", "30", "--streams", "4"]
    with simulator(*options) as (_, address):
        command = [sys.executable, "-c", RECEIVER, f"ws://{address}/public/stream", str(log)]
        for kill_after in (300, 900, 1_500, len(expected)):
            client = await asyncio.create_subprocess_exec(*command, *streams)
            try:
                await eventually(
                    lambda n=kill_after: len(set(whole_lines(log)) & set(expected)) >= n
                )
            finally:
                client.kill()
                await client.wait()
            text = log.read_text()
            log.write_text(text[: text.rfind("\n") + 1])  # the line it was killed in
        got = whole_lines(log)
    assert set(got) - {'{"result":null,"id":1}'} == set(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--speed", "0"], "speed must be above 0"),
        (["--recording", "nothing.gz"], "--recording nothing.gz: EXCHANGE=FILE with one of"),
        (["--recording", f"{BINANCE}=nothing.gz"], "can't read the recording nothing.gz"),
        (["--exchange", BINANCE, "--symbols", "NOPE"], "no simulated instrument 'NOPE'"),
        (["--symbols", "BTCUSDT"], "--symbols once for every --exchange"),
        (["--port", "70000"], "port must be 0-65535"),
    ],
)
def test_wrong_options_are_refused(options: list[str], message: str) -> None:
    command = [sys.executable, "-m", "ingest.simulator", *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
