"""The API against those who mean it no good: random requests, odd names, secrets in what it tells.

Every request that schemathesis makes up from the OpenAPI document must get one of the documented
answers; nothing that a client sends is a path, a pattern or a label.
"""

import logging
from pathlib import Path
from urllib.parse import quote

import httpx
import prometheus_client
import pytest
import schemathesis
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.publish.serving import BTC, QUERY, RAW_QUERY, Api, put_days, put_raw, series

ODD = [
    *("..", ".", "../../../keys.json", "/etc/passwd", "a/b", "a\\b", "%2e%2e%2f", "%00", "~"),
    *("*", "?", "perpetual-*", "[a-z]", "{a,b}", "$HOME", "`id`", "'; DROP TABLE x; --", "<b>"),
    *("perpetual-币安人生-USDT:USDT", "perpetual-XYZ:TSLA-USDC:USDC", "ключ", "é" * 40, "😀"),
    *("x" * 200, "币" * 66, "symbol=a", "a&b=c", "a#b", "a b", "=", "CON", "-rf"),
]
PARAMETERS = [*QUERY]


@pytest.fixture
def api(tmp_path: Path) -> Api:
    api = Api(tmp_path)
    put_days(api.store, ["2026-10-30"])
    put_raw(api.store, "trades", "2026-10-30")
    (tmp_path / "secret.txt").write_text("outside")
    return api


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_symbol_is_a_name_like_any_other(api: Api, name: str) -> None:
    """It finds its own files alone, and no others by being a pattern or a path."""
    assert await api.files(symbol=name) == []
    raw = await api.get("/data/raw/trades", **{**RAW_QUERY, "symbol": name})
    assert (raw.status_code, raw.json()["files"]) == (200, [])
    if len(quote(name)) < 240:  # as a directory's name must be
        put_days(api.store, ["2026-11-01"], series(symbol=name))
        api.clock.now += 10
        [file] = await api.files(symbol=name)
        assert (await api.http.get(file["url"])).status_code == 200
        assert (
            name
            in (await api.get("/metadata/symbols", exchange=QUERY["exchange"])).json()["symbols"]
        )


@pytest.mark.parametrize("name", ["", "a\nb", "a\x00b", "\x1b[31m", "a\u202eb", "x" * 201])
async def test_what_is_no_printable_name_is_refused(api: Api, name: str) -> None:
    answer = await api.get("/data/ohlcv", **{**QUERY, "symbol": name})
    assert answer.status_code == 400
    assert [line.partition(":")[0] for line in answer.json()["details"]] == ["symbol"]


@pytest.mark.parametrize(
    "name", ["..", "../../keys.json", "/etc/passwd", "%2e%2e%2fkeys.json", "*"]
)
@pytest.mark.parametrize(
    "parameter", ["exchange", "timestamp", "interval", "start_date", "dataset"]
)
async def test_paths_in_every_other_parameter(api: Api, parameter: str, name: str) -> None:
    dataset = quote(name, safe="") if parameter == "dataset" else "ohlcv"
    for query, root in ((QUERY, "/data/"), (RAW_QUERY, "/data/raw/")):
        if parameter != "dataset" and parameter not in query:
            continue
        asked = query if parameter == "dataset" else {**query, parameter: name}
        answer = await api.get(root + dataset, **asked)
        assert answer.status_code == (404 if parameter == "dataset" else 400), answer.text
        assert "outside" not in answer.text


@settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(key=st.text(max_size=80))
async def test_no_text_is_a_key_but_the_key(api: Api, key: str) -> None:
    headers = {b"X-API-KEY": key.encode(errors="replace").replace(b"\n", b"").replace(b"\r", b"")}
    answer = await api.http.get("/api/v1/metadata/symbols?exchange=x", headers=headers)
    assert answer.status_code == 401


def test_schemathesis_finds_no_answer_that_is_not_documented(api: Api) -> None:
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", api.app)
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    seen = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=60,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(case=operation.as_strategy())
        def asks(case: schemathesis.Case) -> None:
            answer = case.call(headers={"X-API-KEY": api.key})
            # No schema says that start_date comes before end_date.
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])
            seen.add((case.path, answer.status_code))

        asks()
    assert ("/api/v1/data/{dataset}", 400) in seen
    assert ("/api/v1/metadata/symbols", 200) in seen


async def test_no_secret_is_logged_or_counted(
    api: Api, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as logs:
        [file] = await api.files()
        await api.http.get(file["url"])
        await api.http.get(file["url"] + "x")
        await api.get("/data/ohlcv", key=f"{api.key}x", **QUERY)
        await api.get(f"/data/{api.key}", **QUERY)
    signature = httpx.URL(file["url"]).params["signature"]
    metrics = prometheus_client.generate_latest().decode()
    told = "\n".join([metrics, str(logs), *capfd.readouterr()])
    told += "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith("httpx"))
    assert 'route="/api/v1/data/{dataset}"' in metrics
    for secret in (api.key, signature, api.keys.signing_secret().hex()):
        assert secret not in told
    assert BTC not in metrics
