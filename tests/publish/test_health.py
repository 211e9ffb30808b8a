"""/metrics, /healthz and /readyz over real HTTP."""

import asyncio
import socket

import httpx
import pytest

from ingest import metrics
from publish.health import HealthError, served
from publish.settings import MetricsSettings


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def test_readiness_changes_and_every_answer_is_whole() -> None:
    assert metrics.FRAMES  # what is imported is what /metrics shows
    ready = False
    settings = MetricsSettings(port=free_port())
    async with (
        served(settings, lambda: ready),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.port}") as client,
    ):
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "not ready\n")
        ready = True
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.text) == (200, "ready\n")
        assert (await client.get("/healthz")).text == "alive\n"
        assert (await client.get("/nothing")).status_code == 404
        assert "perpflow_frames_total" in (await client.get("/metrics")).text


async def test_a_client_that_says_nothing_holds_up_no_other() -> None:
    settings = MetricsSettings(port=free_port())
    async with served(settings, lambda: True):
        _, silent = await asyncio.open_connection("127.0.0.1", settings.port)
        async with httpx.AsyncClient(timeout=5) as client:
            answer = await client.get(f"http://127.0.0.1:{settings.port}/healthz")
        assert answer.text == "alive\n"
        silent.close()


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = MetricsSettings(port=taken.getsockname()[1])
        with pytest.raises(HealthError, match=f"127.0.0.1:{settings.port}"):
            async with served(settings, lambda: True):
                pass
