"""The image: what hadolint and our own rules say of its Dockerfile, and its commands at work.

There is no container engine here. What RUN, ENTRYPOINT and HEALTHCHECK say is read from the file
and run: COPY into a folder, RUN by a shell there, with the folder in place of the paths.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.confined import confined
from tests.deploy.dockerfile import DOCKERFILE, ROOT, Stage, reaches_the_builder, stages
from tests.end_to_end.processes import simulator, wait_until, write_settings
from tests.publish.conftest import free_ports

pytestmark = pytest.mark.xdist_group("image")  # which is made once
BUILD_S = 300.0
START_S = 60.0


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_bases_are_one_exact_version() -> None:
    (base,) = {stage.base for stage in stages()}
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", base)


def test_it_ends_as_a_user_without_rights_in_a_folder_of_its_own() -> None:
    final = stages()[-1]
    user = final.only("USER")
    uid, gid = map(int, user.split(":"))
    assert uid == gid > 0
    (made,) = (rest for rest in final.all("RUN") if "useradd" in rest)
    assert f"--uid {uid}" in made
    assert f"--home-dir {final.only('WORKDIR')}" in made
    # Nothing of root's comes after, and nothing is fetched but by pip from constraints.txt.
    names = [name for name, _ in final.instructions]
    assert not {"RUN", "COPY"} & set(names[names.index("USER") :])
    assert "ADD" not in {name for stage in stages() for name, _ in stage.instructions}
    assert not re.search(r"apt|curl|wget|git ", DOCKERFILE.read_text().replace("github", ""))


def test_no_tests_recordings_or_secrets_reach_the_builder() -> None:
    for path in (".env", ".git", "tests", "perpflow.toml", "perpflow-keys.json", "demo-data"):
        assert not reaches_the_builder(path), path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the build stage leaves in /opt/perpflow, in a folder."""
    folder = tmp_path_factory.mktemp("image")
    source, target = folder / "src", folder / "opt"
    source.mkdir()
    build = stages()[0]
    for names, to in (rest.rsplit(" ", 1) for rest in build.all("COPY")):
        for name in names.split():
            assert reaches_the_builder(name), f"{name}: .dockerignore keeps it out"
            _copy(ROOT / name, source / to / name if to.endswith("/") else source / to)
    environment = {**os.environ, "PATH": f"{_base_python()}:{os.environ['PATH']}"}
    for command in build.all("RUN"):
        line = command.replace("/opt/perpflow", str(target))
        done = subprocess.run(
            ["/bin/sh", "-ec", line],
            cwd=source,
            env=environment,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return target


def _base_python() -> Path:
    """Where a `python` is that is in no virtual environment, as in the base image."""
    return Path(sys.base_prefix) / "bin"


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def environment(image: Path, port: int, more: dict[str, str]) -> dict[str, str]:
    """The final stage's ENV, with its own port for /metrics; nothing else is known."""
    own = {
        name: value.replace("/opt/perpflow", str(image)).replace("$PATH", os.environ["PATH"])
        for name, value in stages()[-1].environment().items()
    }
    return {**own, "PERPFLOW_METRICS__PORT": str(port), **more}


def test_no_build_tools_or_sources_are_left(image: Path) -> None:
    names = {path.name for path in (image / "bin").iterdir()}
    assert "perpflow" in names
    assert not {"pip", "pytest", "ruff"} & names
    (packages,) = image.glob("lib/python3.*/site-packages")
    assert not (packages / "tests").exists()
    assert (packages / "publish" / "api" / "app.py").exists()  # sub-packages too
    size = sum(path.lstat().st_size for path in image.rglob("*")) / 1e6
    print(f"{size:.0f} MB")
    assert size < 450


def test_the_command_without_arguments_is_help(image: Path, tmp_path: Path) -> None:
    final = stages()[-1]
    done = subprocess.run(
        [*final.command("ENTRYPOINT"), *final.command("CMD")],
        cwd=tmp_path,
        env=environment(image, 1, {}),
        capture_output=True,
        text=True,
        timeout=START_S,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: perpflow" in done.stdout


@pytest.fixture
def serving(image: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`perpflow serve` as the image starts it, and the port of its /healthz."""
    ports = free_ports(2)
    more = {
        "PERPFLOW_PUBLISH__URL": f"file://{tmp_path / 'bars'}",
        "PERPFLOW_API__PORT": str(ports[0]),
    }
    command = [*stages()[-1].command("ENTRYPOINT"), "serve"]
    with (tmp_path / "log").open("wb") as log:
        env = environment(image, ports[1], more)
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
    yield process, ports[1]
    process.kill()
    process.wait()


def test_the_health_check_tells_a_daemon_that_runs_from_one_that_does_not(
    image: Path, serving: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    process, port = serving
    final: Stage = stages()[-1]
    assert final.environment()["PERPFLOW_METRICS__PORT"] == final.only("EXPOSE") == "9108"
    check = [part.replace("9108", str(port)) for part in final.command("HEALTHCHECK")]

    def healthy() -> bool:
        done = subprocess.run(
            check, env=environment(image, port, {}), capture_output=True, cwd=tmp_path
        )
        return done.returncode == 0

    wait_until(healthy, START_S, "healthy")
    process.terminate()
    assert process.wait(10) == 0
    assert not healthy()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as a container engine does")
def test_it_works_without_rights_on_a_read_only_root(image: Path, tmp_path: Path) -> None:
    final = stages()[-1]
    uid, home = int(final.only("USER").split(":")[0]), final.only("WORKDIR")
    state, root, log = tmp_path / "state", tmp_path / "root", tmp_path / "log"
    state.mkdir()
    root.mkdir()
    port, health = free_ports(2)
    with simulator("--seed", 3) as (_, venues):
        settings = write_settings(state, venues, more=f"[api]\nport = {port}")
        settings.write_text(settings.read_text().replace(str(state), home))
        os.chown(state, uid, uid)  # as the image's own folder is, of which a volume is a copy
        command = [*final.command("ENTRYPOINT"), "run"]
        everything = {"root": root, "shown": [image], "state": state, "home": home, "uid": uid}
        with log.open("wb") as output:
            process = subprocess.Popen(
                confined(command, **everything),
                env=environment(image, health, {}),
                stdout=output,
                stderr=output,
            )
        try:
            files = (state / "bars").glob
            wait_until(lambda: process.poll() or any(files("**/*.parquet")), START_S, "files")
            status = Path(f"/proc/{process.pid}/status").read_text()
            process.terminate()
            assert process.wait(10) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
    assert re.search(rf"^Uid:\t{uid}\t{uid}\t", status, re.M)
    assert re.search(r"^CapEff:\t0+$", status, re.M)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.M)
    owners = {path.stat().st_uid for path in (state / "bars").rglob("*.parquet")}
    assert owners == {uid}


def test_a_confined_process_can_write_nowhere_else(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, as a container engine does")
    (tmp_path / "state").mkdir(mode=0o777)
    (tmp_path / "root").mkdir()
    script = "for f in /x /tmp/x /etc/x /usr/x ./x; do touch $f && echo $f; done; true"
    where = {"root": tmp_path / "root", "shown": [], "state": tmp_path / "state"}
    command = confined(["sh", "-c", script], **where, home="/home/it", uid=10001)
    os.chmod(tmp_path / "state", 0o777)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "./x\n", done.stderr
