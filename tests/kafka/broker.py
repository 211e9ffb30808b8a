"""A real Kafka for the tests: Apache Kafka in KRaft mode, broker and controller in one process.

What it took (Java 17, Maven 3.8, Kafka 4.1.0):

- The jars are Maven Central's: `mvn dependency:copy-dependencies` with the pom.xml here, once, into
  ~/.cache/perpflow/kafka-VERSION (46 jars, 43 MB, 20 s). pom.xml pins the version.
- A data folder is formatted by `kafka.tools.StorageTool format -t UUID -c server.properties`
  before its first start (2 s), then `kafka.Kafka server.properties` runs (ready in 3 s, 300 MB).
- On one broker every replication factor of the internal topics has to be 1, and
  `transaction.state.log.min.isr` too, or no transactional id is ever given out. Fewer partitions
  of the internal topics make the first transaction a second faster.
- The listener's port must be known beforehand, as it is told to clients: two free ports are taken,
  and taken anew should somebody else have been faster.
- slf4j needs a backend (slf4j-simple), or the broker is silent also about why it ended.

`PERPFLOW_TEST_KAFKA=host:port` names a running broker instead. Without Java or Maven `noida-db`
stands in, in memory: `NOIDA_CANNOT` names the tests that are beyond it. With CI=true it isn't
accepted.
"""

import asyncio
import base64
import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

HERE = Path(__file__).parent
START_S = 120.0
STOP_S = 30.0
HEAP_MB = 512
_SESSION = "knows no session shorter than 6 s, and keeps members that have died"
NOIDA_CANNOT = {
    "test_shares_are_even_and_only_what_must_moves": _SESSION,
    "test_a_silent_member_loses_its_share_and_gets_one_when_back": _SESSION,
    "test_what_was_fenced_comes_back_when_the_group_confirms_it": _SESSION,
    "test_a_stuck_process_leaves_and_joins_when_it_moves_again": _SESSION,
}
"""Tests by name, and why the stand-in fails them."""

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
}


class Broker(Protocol):
    """`servers`: what clients connect to."""

    servers: str


class NoBroker(Exception):
    """There is none, and none can be started; the message says why."""


class ApacheKafka:
    """One broker with its own data folder; the same ports and data over restarts.

    `properties`: server properties over the tests' `own`. `listeners`: more of them, the security
    protocol by name; `at` has the address of each. `scram`: the password by "mechanism user".
    `beside`: the broker whose cluster this one joins.
    """

    def __init__(
        self,
        folder: Path,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        scram: Mapping[str, str] | None = None,
        beside: "ApacheKafka | None" = None,
        own: Mapping[str, str] = PROPERTIES,
    ) -> None:
        self._folder = folder
        self._jars = jars()
        protocols = {"PLAINTEXT": "PLAINTEXT", **(listeners or {})}
        self.at = {name: f"127.0.0.1:{free_port()}" for name in protocols}
        self.servers = self.at["PLAINTEXT"]
        if beside is None:
            self._controller = f"127.0.0.1:{free_port()}"
            self._cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        else:
            self._controller, self._cluster = beside._controller, beside._cluster
        advertised = ",".join(f"{name}://{at}" for name, at in self.at.items())
        protocols["CONTROLLER"] = "PLAINTEXT"
        lines = {
            **own,
            **(properties or {}),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.quorum.voters": f"1@{self._controller}",
            "listeners": f"{advertised},CONTROLLER://{self._controller}",
            "advertised.listeners": advertised,
            "listener.security.protocol.map": ",".join(f"{n}:{p}" for n, p in protocols.items()),
            "log.dirs": f"{folder}/data",
        }
        if beside is not None:
            lines |= {"process.roles": "broker", "node.id": "2", "listeners": advertised}
        self._properties = folder / "server.properties"
        self._properties.write_text("".join(f"{n}={value}\n" for n, value in lines.items()))
        # In one word: an id may begin with a dash.
        arguments = [f"--cluster-id={self._cluster}", f"--config={self._properties}"]
        for name, password in (scram or {}).items():
            mechanism, user = name.split()
            arguments.append(f"--add-scram={mechanism}=[name={user},password={password}]")
        self._run("kafka.tools.StorageTool", "format", *arguments)
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self, main: str, *arguments: str) -> list[str]:
        # One thread collects and compiles little: the machine is the tests', too.
        java = ["java", f"-Xmx{HEAP_MB}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return [*java, "-cp", f"{self._jars}/*", main, *arguments]

    def _run(self, main: str, *arguments: str) -> None:
        done = subprocess.run(self._command(main, *arguments), capture_output=True, text=True)
        if done.returncode:
            raise NoBroker(f"{main} failed:\n{done.stdout}\n{done.stderr}")

    def start(self) -> None:
        with (self._folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(self._properties)),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        # Listeners open one after another.
        while not (answers(self.servers) and all(map(_listens, self.at.values()))):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = (self._folder / "broker.log").read_text()[-3000:]
                raise NoBroker(f"the broker did not start:\n{tail}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process by its id; SIGKILL after `STOP_S`."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """As a power cut would."""
        self.stop(signal.SIGKILL)


class NoidaKafka:
    """The stand-in: one binary from PyPI, in memory."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.servers = f"127.0.0.1:{port}"
        binary = Path(sys.executable).parent / "noida-db"
        if not binary.exists():
            raise NoBroker("neither java with mvn nor noida-db is installed")
        arguments = ["start", "--data-dir", str(folder), "--only", "kafka", "--kafka-port"]
        with (folder / "noida.log").open("wb") as log:
            self._process = subprocess.Popen(
                [binary, *arguments, str(port)], stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        # Listeners open one after another.
        while not (answers(self.servers) and all(map(_listens, self.at.values()))):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise NoBroker(f"noida-db did not start: {(folder / 'noida.log').read_text()}")

    def stop(self) -> None:
        # The command is a wrapper of the server, which it doesn't end with itself.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_S)


class Running:
    """The broker that PERPFLOW_TEST_KAFKA names."""

    def __init__(self, servers: str) -> None:
        self.servers = servers


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Broker]:
    """The broker that this machine can have. Raises `NoBroker`."""
    servers = os.environ.get("PERPFLOW_TEST_KAFKA")
    if servers:
        yield Running(servers)
        return
    if not (shutil.which("java") and shutil.which("mvn")):
        if os.environ.get("CI") == "true":
            raise NoBroker("CI needs Apache Kafka: install Java 17 and Maven")
        stand_in = NoidaKafka(folder)
        try:
            yield stand_in
        finally:
            stand_in.stop()
        return
    broker = ApacheKafka(folder)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def jars() -> Path:
    """The folder with Kafka's jars, filled by Maven if it isn't there."""
    pom = (HERE / "pom.xml").read_text()
    match = re.search(r"<kafka\.version>(.+)</kafka\.version>", pom)
    assert match is not None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perpflow"
    folder = cache / f"kafka-{match[1]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = cache / f"kafka-{match[1]}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml")]
            command += ["dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise NoBroker(f"mvn failed:\n{done.stdout[-3000:]}")
            partial.rename(folder)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(servers: str) -> bool:
    """Whether a broker is ready there; returns after a tenth of a second at the earliest."""

    async def ask() -> bool:
        client = AIOKafkaClient(bootstrap_servers=servers, request_timeout_ms=2000)
        try:
            await client.bootstrap()
        except KafkaError:
            await asyncio.sleep(0.1)
            return False
        else:
            return bool(client.cluster.brokers())
        finally:
            await client.close()

    return _listens(servers.partition(",")[0]) and asyncio.run(ask())


def _listens(server: str) -> bool:
    """Whether the port is open; returns after a tenth of a second if it isn't."""
    host, _, port = server.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex((host, int(port))) == 0:
            return True
    time.sleep(0.1)
    return False
