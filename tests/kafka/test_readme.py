"""README's section "On Kafka" works as written, on a broker with the compose file's settings.

There is no container engine here, so the settings that docker-compose.yml gives its broker are read
from it and given to the tests' broker: all but addresses and folders. The commands are run from the
README, word by word, by a shell; only the broker's and the venue's addresses come from the
environment, and the market from the simulator.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import yaml

from tests.end_to_end.processes import simulator, wait_until
from tests.kafka.broker import ApacheKafka, Broker

pytestmark = pytest.mark.xdist_group("kafka")
ROOT = Path(__file__).parents[2]
VENUE = "binance-futures"
DEADLINE_S = 150.0
DAEMONS = ("perpflow ingest", "perpflow aggregate", "perpflow publish")


def section(title: str) -> str:
    """Of the README, without its heading."""
    text = (ROOT / "README.md").read_text()
    match = re.search(rf"^## {title}\n(.*?)^## ", text, re.M | re.S)
    assert match is not None
    return match[1]


def commands(text: str) -> list[str]:
    """The lines of its indented blocks, without what explains them."""
    indented = re.findall(r"^ {4}(\S.*)$", text, re.M)
    return [re.sub(r"\s+#.*", "", line) for line in indented]


def compose_properties() -> dict[str, str]:
    """The broker's settings in the compose file, as the image makes server properties of them."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): str(value)
        for name, value in services["kafka"]["environment"].items()
    }


@pytest.fixture
def compose_broker(kafka_broker: Broker, tmp_path: Path) -> Iterator[ApacheKafka]:
    if not isinstance(kafka_broker, ApacheKafka):
        pytest.skip("needs Apache Kafka: the stand-in has no settings")
    (tmp_path / "broker").mkdir()
    listeners = {"HOST": "PLAINTEXT"}
    broker = ApacheKafka(tmp_path / "broker", compose_properties(), listeners, own={})
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def environment(compose_broker: ApacheKafka, tmp_path: Path) -> Iterator[dict[str, str]]:
    """README's settings, in a folder; `perpflow` on the path; a simulated venue."""
    first, *_ = re.findall(r"```toml\n(.*?)```", section("On Kafka"), re.S)
    venue = f'[venues.{VENUE}]\nsymbols = ["BTCUSDT", "ETHUSDT"]\n'
    (tmp_path / "perpflow.toml").write_text(f"{first}\n{venue}")
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "perpflow"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m perpflow "$@"\n')
    shim.chmod(0o755)
    options = ("--seed", 1, "--exchange", VENUE)
    with simulator(*options) as (_, port):
        yield {
            **os.environ,
            "PATH": f"{shim.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PERPFLOW_LOG__KAFKA__SERVERS": compose_broker.at["HOST"],
            "PERPFLOW_VENUES__BINANCE_FUTURES__WS_URL": f"ws://127.0.0.1:{port}",
            "PERPFLOW_VENUES__BINANCE_FUTURES__REST_URL": f"http://127.0.0.1:{port}",
            "PERPFLOW_PUBLISH__FLUSH": "1s",
        }


def test_the_section_on_kafka_works_as_written(environment: dict[str, str], tmp_path: Path) -> None:
    docker, *ours = commands(section("On Kafka"))
    assert docker == "docker compose up -d kafka"
    assert [line for line in ours if line in DAEMONS] == list(DAEMONS)

    def run(line: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        made = run(ours[0])
        assert "ticks.trades: made" in made
        for line in ours[1:]:
            if line in DAEMONS:
                with (tmp_path / f"{line.split()[1]}.log").open("wb") as log:
                    running[line] = subprocess.Popen(
                        ["/bin/sh", "-c", f"exec {line}"],
                        cwd=tmp_path,
                        env=environment,
                        stdout=log,
                        stderr=log,
                    )
        files = tmp_path / "perpflow-data"
        wait_until(lambda: any(files.glob("metrics_open/**/*.parquet")), DEADLINE_S, "bars")
        described, tailed = (run(line) for line in ours[1:] if line not in DAEMONS)
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        for line, process in running.items():
            # 0: so it took less than publish.stopping.STOP_S.
            code = process.wait(DEADLINE_S)
            assert code == 0, (tmp_path / f"{line.split()[1]}.log").read_text()
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    assert "bars: partitions=16 replicas=1 cleanup.policy=delete" in described
    assert re.search(r"ticks.trades/\d+: first=0 end=\d+ aggregator lag=\d+", described)
    bars = [orjson.loads(line) for line in tailed.splitlines()]
    assert {bar["symbol"] for bar in bars if "symbol" in bar} == {
        "perpetual-BTC-USDT:USDT",
        "perpetual-ETH-USDT:USDT",
    }


def test_all_settings_of_the_section_are_accepted(tmp_path: Path) -> None:
    environment = {**os.environ, "PERPFLOW_LOG__KAFKA__PASSWORD": "secret"}
    for number, block in enumerate(re.findall(r"```toml\n(.*?)```", section("On Kafka"), re.S)):
        config = tmp_path / f"{number}.toml"
        config.write_text(block)
        done = subprocess.run(
            [sys.executable, "-m", "perpflow", "check-config", "--config", str(config)],
            cwd=ROOT,
            env=environment if "sasl" in block else None,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "secret" not in done.stdout
