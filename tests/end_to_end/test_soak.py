"""The daemons for a while at a steady rate, on Kafka and S3: nothing is lost, nothing grows.

A simulated market of 300 symbols on three venues is collected, aggregated, published and served by
processes of their own; when it has ended, its ledger is held against the log and the bars on it.
What was measured is printed: `pytest -s`, docs/sizing.md. In the environment `SOAK_SECONDS`,
`SOAK_INTENSITY` (1 is some 510 ticks a second) and `SOAK_PARTITIONS` make it another run. In CI the
machine is shared and bars come when they can: how soon is for one that does nothing else.
"""

import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from aggregate.intervals import NS
from ingest.log.kafka import KafkaLog
from ingest.log.kafka_options import KafkaOptions
from ingest.records import BARS_TOPIC, QUOTES, QUOTES_TOPIC, TRADES, TRADES_TOPIC
from ingest.simulator import EXCHANGES
from ingest.ticks import Quotes, Trades, decode
from tests.end_to_end.deployment import Deployment, deployment
from tests.end_to_end.fault_accounts import bar_counts, read_records
from tests.end_to_end.market_process import WITHHELD_S, read_ledger
from tests.end_to_end.processes import wait_until
from tests.kafka.broker import ApacheKafka, Broker
from tests.publish.conftest import *  # noqa: F403 (the S3 server)

pytestmark = pytest.mark.xdist_group("kafka")
SEED = 8
SYMBOLS = 100
"""Of each venue."""
START_S = 30
"""Until the market begins: the daemons must be ready by then."""
LATENESS_S, HOLD_S = 5.0, 0.25
END_S = 60.0
MB = 1 << 20
"""What is still allowed to rise over the last two thirds: caches that fill, windows that open."""


@pytest.mark.parametrize(
    ("seconds", "intensity", "partitions", "close_s", "rise_mb"),
    [
        (40, 8.0, 4, 60.0, 200),
        pytest.param(3600, 40.0, 1, HOLD_S + 0.15, 30, marks=pytest.mark.nightly),
    ],
)
async def test_nothing_is_lost_and_nothing_grows(
    kafka_broker: Broker,
    s3_endpoint: str,
    s3_bucket: str,
    tmp_path: Path,
    seconds: int,
    intensity: float,
    partitions: int,
    close_s: float,
    rise_mb: float,
) -> None:
    if not isinstance(kafka_broker, ApacheKafka):
        pytest.skip("needs Apache Kafka: the stand-in keeps its records in memory")
    seconds = int(os.environ.get("SOAK_SECONDS", seconds))
    intensity = float(os.environ.get("SOAK_INTENSITY", intensity))
    partitions = int(os.environ.get("SOAK_PARTITIONS", partitions))
    print(f"seed {SEED}, {seconds} s at intensity {intensity:g}, {partitions} partitions")
    prefix = f"soak{time.time_ns()}."
    start = time.time_ns() // NS + START_S
    market = Market(tmp_path, start, seconds, intensity)
    config = settings(tmp_path, market.port, kafka_broker.servers, prefix, s3_endpoint, s3_bucket)
    with market, deployment(config) as running:
        for name in ("ingest", "aggregate", "publish", "serve"):
            daemon = running.start(name, f"log.partitions={partitions}")
            if name == "publish":  # as docker-compose.yml gives it fewer shares of the CPU
                os.setpriority(os.PRIO_PROCESS, daemon.process.pid, 10)
        running.wait_ready(START_S)
        assert time.time() < start, "the daemons were not ready when the market began"
        measured = run(running, market, start, seconds)
        stopped = {name: running.daemons[name].stop() for name in running.daemons}
    print(f"stopped in {', '.join(f'{n} {s:.1f} s' for n, s in stopped.items())}")

    log = KafkaLog(KafkaOptions(kafka_broker.servers, prefix))
    try:
        await assert_nothing_lost(log, market.ledger, start, measured)
    finally:
        await log.close()
    report(running, measured, seconds)
    share = measured.closed_within(close_s)
    assert share >= 0.99, f"{share:.2%} of the bars were on the log {close_s} s after their second"
    for name, daemon in running.daemons.items():
        samples = daemon.samples
        assert samples.growth(samples.rss) < rise_mb * MB, (name, samples.rss)
        assert samples.growth(samples.files) < 5, (name, samples.files)


class Market:
    """The simulator as a process; ended by its id."""

    def __init__(self, folder: Path, start: int, seconds: int, intensity: float) -> None:
        self.ledger = folder / "ledger.npz"
        command = [sys.executable, "-m", "tests.end_to_end.market_process", str(SEED)]
        command += map(str, (start * NS, seconds, intensity, SYMBOLS, self.ledger))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    @property
    def ended(self) -> bool:
        assert self.process.poll() is None
        return self.ledger.exists()

    def __enter__(self) -> "Market":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


def settings(
    folder: Path, port: int, kafka: str, prefix: str, s3_endpoint: str, bucket: str
) -> Path:
    api, stream = free_ports(2)  # noqa: F405
    lines = [
        f'log.path = "{folder}/perpflow.db"',
        f'[log.kafka]\nservers = "{kafka}"\nprefix = "{prefix}"',
        f'[publish]\nurl = "{bucket}/bars"\ns3_endpoint = "{s3_endpoint}"\nflush = "1m"',
        '[publish.flush_by_interval]\n"1s" = "5m"\n"15s" = "5m"\n"30s" = "5m"',
        f'[api]\nport = {api}\nstream_port = {stream}\nkeys = "{folder}/keys.json"',
    ]
    for exchange in EXCHANGES:
        lines.append(
            f'[venues.{exchange}]\nsymbols = ["all"]\n'
            f'ws_url = "ws://127.0.0.1:{port}"\nrest_url = "http://127.0.0.1:{port}"'
        )
    path = folder / "perpflow.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


class Measured:
    """What /metrics of ingest and aggregate counted over the run."""

    def __init__(self, running: Deployment) -> None:
        self._daemons = [running.daemons[name] for name in ("ingest", "aggregate")]
        self._before = [daemon.scrape() for daemon in self._daemons]

    def end(self) -> None:
        after = [daemon.scrape() for daemon in self._daemons]
        self.ingest, self.aggregate = (a - b for a, b in zip(after, self._before, strict=True))
        self.trouble = {
            name: after[0].total(name) for name in ("gaps", "connections_lost", "trades_healed")
        }
        self._late = after[1].by("aggregate_discarded", "kind", clock="exchange", reason="late")

    def closed_within(self, seconds: float) -> float:
        """The share of commits of 1s bars of arrival time that came by then."""
        name = "perpflow_bar_close_delay_seconds_bucket"
        found = self.aggregate.buckets(name, clock="true", interval="1s")
        return found[seconds] / max(found[float("inf")], 1)

    @property
    def late_trades(self) -> int:
        """Of the whole run: of an exhausted machine the simulator is late itself."""
        return self._late[TRADES]


def run(running: Deployment, market: Market, start: int, seconds: int) -> Measured:
    """Sample until the market has ended and its last windows are on the log."""
    every_s = max(1.0, seconds / 240)
    warm_up = start + min(20.0, seconds / 6)
    wait_until(lambda: time.time() > warm_up, START_S + 30, "the market runs")
    measured = Measured(running)
    due = time.monotonic()
    while not market.ended:
        late_s = max(END_S, seconds / 4)  # the simulator needs its share of the machine, too
        assert time.time() < start + seconds + late_s, "the market did not end in time"
        running.sample()
        due += every_s
        time.sleep(max(0.0, due - time.monotonic()))  # a sampling interval
    over = start + seconds + LATENESS_S + HOLD_S + 1
    watermark = "perpflow_watermark_timestamp_seconds"
    aggregate = running.daemons["aggregate"]
    wait_until(lambda: min(aggregate.scrape().values(watermark)) > over, END_S, "bars to the end")
    measured.end()
    return measured


async def assert_nothing_lost(log: KafkaLog, ledger: Path, start: int, measured: Measured) -> None:
    """Every trade of the ledger is on the log, and in one bar or counted as late; no fewer quotes
    than were made. A connection that was replaced has delivered some of them twice."""
    ids, quotes = await ticks_on(log, start)
    in_bars = await bar_counts(log, await log.partitions(BARS_TOPIC), start + WITHHELD_S)
    made = read_ledger(ledger)
    assert len(made) == SYMBOLS * len(EXCHANGES)
    left_out = 0
    for (exchange, symbol), of in made.items():
        found = ids[exchange, symbol]
        assert np.isin(of.ids, found).all(), (exchange, symbol, measured.trouble)
        assert len(np.unique(found)) == len(of.ids), (exchange, symbol, measured.trouble)
        assert quotes[exchange, symbol] >= of.quotes, (exchange, symbol)
        missing = of.in_bars - in_bars[exchange, symbol]
        assert missing >= 0, (exchange, symbol)
        left_out += missing
    assert sum(of.in_bars for of in made.values()) > 1000
    assert left_out <= measured.late_trades


async def ticks_on(log: KafkaLog, start: int) -> tuple[dict[tuple[str, str], np.ndarray], Counter]:
    """Ids of the trades from that second on, and how many quotes, by (exchange, symbol)."""
    parts = defaultdict(list)
    quotes: Counter[tuple[str, str]] = Counter()
    for partition in range(await log.partitions(TRADES_TOPIC)):
        async for record in read_records(log, TRADES_TOPIC, partition):
            if record.headers["type"] == TRADES:
                trades = decode(Trades, record.value)
                trades = trades.take(trades.exchange_ts >= start * NS)
                if not len(trades):  # a backlog
                    continue
                order = np.argsort(trades.code, kind="stable")
                code, at = np.unique(trades.code[order], return_index=True)
                for c, some in zip(code, np.split(trades.id[order], at[1:]), strict=True):
                    parts[record.headers["exchange"], trades.symbols[c]].append(some)
        async for record in read_records(log, QUOTES_TOPIC, partition):
            if record.headers["type"] == QUOTES:
                batch = decode(Quotes, record.value)
                for c, n in enumerate(np.bincount(batch.code)):
                    if n:
                        quotes[record.headers["exchange"], batch.symbols[c]] += int(n)
    return {key: np.concatenate(some) for key, some in parts.items()}, quotes


def report(running: Deployment, measured: Measured, seconds: int) -> None:
    """What docs/sizing.md is made of."""
    first = running.daemons["ingest"].samples
    rate = measured.ingest.total("ticks") / (first.at[-1] - first.at[0])
    print(f"{seconds} s, {rate:,.0f} ticks/s, {SYMBOLS * len(EXCHANGES)} symbols")
    print(f"trades in no bar of exchange time as they arrived too late: {measured.late_trades}")
    for within in (0.3, 0.35, 0.4, 0.5, 1.0, 2.5):
        print(f"1s bars on the log within {within} s of their end: "
              f"{measured.closed_within(within):.2%}")  # fmt: skip
    for name, of in (
        ("perpflow_append_seconds", measured.ingest),
        ("perpflow_seal_duration_seconds", measured.aggregate),
        ("perpflow_commit_seconds", measured.aggregate),
    ):
        found = of.buckets(f"{name}_bucket")
        print(name, {k: f"{v / max(found[float('inf')], 1):.3f}" for k, v in found.items()})
    for name, daemon in running.daemons.items():
        s = daemon.samples
        print(
            f"{name}: {s.cpu_share:.3f} cores, {1000 * s.cpu_share / (rate / 1000):.2f} ms of CPU "
            f"a 1,000 ticks, {s.rss[-1] / MB:.0f} MB resident, {s.growth(s.rss) / MB:+.1f} MB and "
            f"{s.growth(s.files):+.1f} files over the last two thirds, {s.files[-1]:.0f} files"
        )
