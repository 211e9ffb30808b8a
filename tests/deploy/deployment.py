"""A whole deployment as separate processes on loopback: the simulated venues, two collectors, an
aggregator, a publisher, the API and the audit, on Kafka and S3, watched by Prometheus with the
configuration that is shipped, but for addresses and how fast time runs.
"""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from ingest.simulator import EXCHANGES
from publish.keys import KeyFile
from tests.deploy.debian import faketime, program
from tests.deploy.dockerfile import ROOT
from tests.deploy.inhibition import inhibited
from tests.deploy.scaling import SCRAPE_S, scaled
from tests.deploy.venues import NATIVES
from tests.end_to_end.processes import wait_until
from tests.publish.conftest import free_ports
from tests.publish.faulty_proxy import FaultyProxy

START_S = 90.0
PARTITIONS = 2
JOBS = {
    "ingest-1": "ingest",
    "ingest-2": "ingest",
    "aggregate": "aggregate",
    "publish": "publish",
    "serve": "serve",
    "audit": "audit",
}


class Deployment:
    """Runs while in its `with`. `factor`: how much faster than shipped the rules are."""

    def __init__(
        self, folder: Path, kafka: str, bucket: str, s3_endpoint: str, factor: float
    ) -> None:
        self.folder = folder
        self.factor = factor
        self.store = FaultyProxy(s3_endpoint, seed=1, share=0.0, kinds=["error 503"])
        self._kafka, self._bucket = kafka, bucket
        ports = free_ports(len(JOBS) + 3)
        self._ports = dict(zip((*JOBS, "api", "stream", "prometheus"), ports, strict=True))
        self._processes: dict[str, subprocess.Popen[Any]] = {}
        self._ends = ExitStack()
        self._clock = folder / "clock"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._kill)
            stack.enter_context(self.store)
            self._start_venues()
            self._write_settings()
            self.key = KeyFile(self.folder / "keys.json").add("test", "prime+raw")
            for name in JOBS:
                self.start(name)
            self._start_watchers()
            self._ends = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    # -- what a test does

    def start(self, name: str) -> None:
        environment = os.environ | {
            "PERPFLOW_METRICS__PORT": str(self._ports[name]),
            "PERPFLOW_INGEST__COLLECTOR": name,
            "PYTHONPATH": str(ROOT),
        }
        if name == "ingest-2":  # its clock is ours to step
            self._clock.write_text("+0.0")
            environment |= {
                "LD_PRELOAD": str(faketime()),
                "FAKETIME_TIMESTAMP_FILE": str(self._clock),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
        command = [sys.executable, "-m", "perpflow", JOBS[name]]
        command += ["--watch"] if name == "audit" else []
        self._run(name, [*command, "--config", str(self.folder / "perpflow.toml")], environment)

    def stop(self, name: str) -> None:
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0, self.said(name)

    def venues(self, command: str) -> None:
        stdin = self._processes["venues"].stdin
        assert stdin is not None
        stdin.write(f"{command}\n".encode())
        stdin.flush()

    def step_clock(self, by_s: float) -> None:
        """Of the second collector."""
        self._clock.write_text(f"{by_s:+.1f}")

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    # -- what it is asked

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query, now."""
        found: list[dict[str, Any]] = self._prometheus("query", query=expression)["result"]
        return found

    def query_range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        asked = {"query": expression, "start": start, "end": end, "step": step}
        found: list[dict[str, Any]] = self._prometheus("query_range", **asked)["result"]
        return found

    def _prometheus(self, what: str, **parameters: object) -> dict[str, Any]:
        answer = httpx.post(f"{self.prometheus}/api/v1/{what}", data=parameters, timeout=30)
        document = answer.json()
        assert document["status"] == "success", f"{parameters}: {document}"
        data: dict[str, Any] = document["data"]
        return data

    def told(self, pending: bool = False) -> set[tuple[str, str]]:
        """(alert, its exchange, kind and job) of what people are told: not what is inhibited.

        `pending`: of what they will be told too, unless it ends.
        """
        state = "firing|pending" if pending else "firing"
        labels = [found["metric"] for found in self.query(f'ALERTS{{alertstate=~"{state}"}}')]
        return {
            (one["alertname"], _about(one))
            for one in labels
            if one["alertname"] != "Watchdog" and not inhibited(one, labels)
        }

    def api(self, path: str, **parameters: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self._ports['api']}/api/v1{path}"
        return httpx.get(url, params=parameters, headers={"X-API-KEY": self.key}, timeout=10)

    @property
    def stream_url(self) -> str:
        return f"ws://127.0.0.1:{self._ports['stream']}/v1/stream"

    @property
    def prometheus(self) -> str:
        return f"http://127.0.0.1:{self._ports['prometheus']}"

    # -- how it is made

    def _start_venues(self) -> None:
        command = [sys.executable, "-m", "tests.deploy.venues"]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None
        )
        self._processes["venues"] = process
        assert process.stdout is not None
        self._venues_port = int(process.stdout.readline())

    def _write_settings(self) -> None:
        sections: dict[str, dict[str, object]] = {
            "log": {"partitions": PARTITIONS, "path": f"{self.folder}/perpflow.db"},
            "log.kafka": {"servers": self._kafka, "prefix": f"{uuid.uuid4().hex[:8]}."},
            "ingest": {"processes_per_address": 2},
            "publish": {
                "url": f"{self._bucket}/prefix",
                "s3_endpoint": self.store.url,
                "flush": "2s",
            },
            "api": {
                "port": self._ports["api"],
                "stream_port": self._ports["stream"],
                "keys": f"{self.folder}/keys.json",
            },
        }
        for exchange in EXCHANGES:
            sections[f"venues.{exchange}"] = {
                "symbols": list(NATIVES[exchange]),
                "ws_url": f"ws://127.0.0.1:{self._venues_port}",
                "rest_url": f"http://127.0.0.1:{self._venues_port}",
            }
        (self.folder / "perpflow.toml").write_text("\n".join(_toml(sections)))

    def _start_watchers(self) -> None:
        document = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
        interval = f"{SCRAPE_S:.0f}s" if self.factor != 1 else "15s"
        document["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
        document["rule_files"] = [str(path) for path in scaled(self.folder, self.factor)]
        del document["alerting"]  # told() does what Alertmanager would
        jobs = [job for job in document["scrape_configs"] if job["job_name"] != "alertmanager"]
        document["scrape_configs"] = jobs
        for job in jobs:
            job.pop("dns_sd_configs", None)
            name = job["job_name"]
            ports = [self._ports[n] for n, of in JOBS.items() if of == name] or [self._ports[name]]
            job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
        config = self.folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(document))
        prometheus = [program("prometheus"), f"--config.file={config}"]
        prometheus += [f"--storage.tsdb.path={self.folder}/tsdb"]
        prometheus += [f"--web.listen-address={self.prometheus.removeprefix('http://')}"]
        self._run("prometheus", [*map(str, prometheus)], os.environ)
        wait_until(lambda: _ready(self.prometheus), START_S, "Prometheus")

    def _run(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log
            )

    def _kill(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _about(labels: Mapping[str, str]) -> str:
    parts = (labels.get(name, "") for name in ("exchange", "kind", "job"))
    return " ".join(part for part in parts if part)


def _toml(sections: Mapping[str, Mapping[str, object]]) -> Iterable[str]:
    for name, settings in sections.items():
        yield f"[{name}]"
        yield from (f"{key} = {json.dumps(value)}" for key, value in settings.items())
