"""`perpflow serve`, the API beside `perpflow run`, and `perpflow keys`."""

import asyncio
import re
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from publish.serve import ServeError, beside, serve
from publish.settings import Settings
from publish.store import Store
from tests.publish.conftest import free_ports
from tests.test_cli import assert_refused, perpflow


def settings(directory: Path, port: int | None) -> Settings:
    return Settings.model_validate(
        {
            "publish": {"url": f"file://{directory}/bars"},
            "api": {"port": port, "keys": directory / "keys.json"},
        }
    )


async def test_the_api_beside_another_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [port] = free_ports(1)
    chosen = settings(tmp_path, port)
    store = Store(chosen.publish.url)
    url = f"http://127.0.0.1:{port}/api/v1"
    for start in range(2):
        async with beside(chosen, store), httpx.AsyncClient() as http:
            await _answered(http, f"{url}/metadata/catalog")
            printed = capsys.readouterr().out
            if start == 0:
                [key] = re.findall(r"shown this once: (pf_\S+)\n", printed)
            assert (key in printed) == (start == 0)
            headers = {"X-API-KEY": key}
            asked = f"{url}/metadata/symbols?exchange=okx-perps"
            assert (await http.get(asked, headers=headers)).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)  # noqa: ASYNC210


async def _answered(http: httpx.AsyncClient, url: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                assert (await http.get(url)).status_code == 200
                return
            except httpx.TransportError:
                await asyncio.sleep(0.05)


async def test_no_port_no_api_beside(tmp_path: Path) -> None:
    chosen = settings(tmp_path, None)
    async with beside(chosen, Store(chosen.publish.url)):
        assert not (tmp_path / "keys.json").exists()


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=rf"api\.port: can't listen on 127\.0\.0\.1:{port}"):
            await serve(settings(tmp_path, port))
    assert not (tmp_path / "keys.json").exists(), "no key is made that nobody saw"


def test_keys_by_the_command_line(tmp_path: Path) -> None:
    def keys(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return perpflow("keys", *arguments, cwd=tmp_path)

    assert_refused(keys("list"), 1, "perpflow-keys.json", "perpflow keys add")
    assert_refused(keys("add", "x", "--plan", "gold"), 2, "'gold' is not one of")
    added = keys("add", "desk 4", "--plan", "prime", "--rate", "100")
    assert added.returncode == 0, added.stderr
    [identity] = re.findall(r"^pf_([0-9a-f]{8})_\S{43}$", added.stdout.strip())
    listed = keys("list").stdout
    assert re.search(rf"^{identity} +prime +100 .* desk 4$", listed, re.MULTILINE)
    assert added.stdout.strip() not in listed
    assert_refused(keys("revoke", "00000000"), 1, "there is no key '00000000'")
    assert keys("revoke", identity).stdout == f"revoked {identity} (desk 4)\n"
    assert identity not in keys("list").stdout
    (tmp_path / "perpflow-keys.json").write_text("{}")
    assert_refused(keys("list"), 1, "not a file of perpflow's keys")
    assert_refused(perpflow("serve", cwd=tmp_path), 1, "not a file of perpflow's keys")
