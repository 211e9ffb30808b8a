"""What the API refuses, in which order, and that it names everything that is wrong."""

from pathlib import Path

import pytest

from tests.publish.serving import BINANCE, QUERY, RAW_QUERY, Api, put_days

WRONG = {**QUERY, "interval": "2h", "exchange": "nyse", "start_date": "soon"}


@pytest.fixture
def api(tmp_path: Path) -> Api:
    return Api(tmp_path)


async def test_the_order_401_400_403_404_429(api: Api) -> None:
    standard = api.keys.add("standard", "standard", 1)
    preview = api.keys.add("preview", "preview")
    for key in ("", "pf_00000000_wrong", f"{api.key}x", api.key.upper()):
        answer = await api.get("/data/nothing", key=key, **WRONG)
        assert answer.status_code == 401
        assert answer.json()["code"] == "unauthorized"
    assert (await api.get("/data/nothing", key=preview, **WRONG)).status_code == 400
    answer = await api.get("/data/nothing", key=preview, **QUERY)
    assert (answer.status_code, answer.json()["code"]) == (403, "data_not_in_plan")
    answer = await api.get("/data/nothing", key=standard, **QUERY)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_dataset")
    assert "ohlcv" in answer.json()["error"]
    assert (await api.get("/data/ohlcv", key=standard, **QUERY)).status_code == 200
    answer = await api.get("/data/ohlcv", key=standard, **QUERY)
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "1"
    api.clock.now += 1
    assert (await api.get("/data/ohlcv", key=standard, **QUERY)).status_code == 200


async def test_keys_that_cant_be_read_are_answered_with_503(api: Api) -> None:
    api.keys.path.write_text("{")
    api.clock.now += 10
    answer = await api.get("/data/ohlcv", **QUERY)
    assert (answer.status_code, answer.json()["code"]) == (503, "keys_unavailable")
    assert answer.headers["Retry-After"] == "2"


async def test_every_wrong_parameter_is_named(api: Api) -> None:
    answer = await api.get("/data/ohlcv", **{**WRONG, "symbol": "", "end_date": "2026-02-30"})
    body = answer.json()
    assert answer.status_code == 400
    assert body["code"] == "invalid_parameters"
    assert [line.partition(":")[0] for line in body["details"]] == [
        "interval",
        "exchange",
        "symbol",
        "start_date",
        "end_date",
    ]
    assert "1h, 4h, 1d" in body["details"][0]
    answer = await api.get("/data/ohlcv", timestamp="exchange", interval="1s")
    assert answer.json()["details"] == [
        "interval: 1s is served for timestamp=true only",
        "exchange: is missing",
        "symbol: is missing",
        "start_date: is missing",
        "end_date: is missing",
    ]


@pytest.mark.parametrize(
    "day", ["20261001", "2026-10-1", "1790000000", "2026-13-01", "2026-10-01T00:00", "２026-10-01"]
)
async def test_dates_have_one_form(api: Api, day: str) -> None:
    answer = await api.get("/data/ohlcv", **{**QUERY, "start_date": day})
    assert [line.partition(":")[0] for line in answer.json()["details"]] == ["start_date"]


async def test_ranges(api: Api) -> None:
    swapped = {"start_date": "2026-11-30", "end_date": "2026-11-29"}
    answer = await api.get("/data/ohlcv", **{**QUERY, **swapped})
    assert answer.json()["details"] == ["end_date: is before start_date"]
    year = {"start_date": "2024-01-01", "end_date": "2024-12-31"}  # 366 days
    assert (await api.get("/data/raw/trades", **{**RAW_QUERY, **year})).status_code == 200
    longer = {**year, "end_date": "2025-01-01"}
    answer = await api.get("/data/raw/trades", **{**RAW_QUERY, **longer})
    assert (answer.status_code, answer.json()["code"]) == (400, "range_too_long")
    assert (await api.get("/data/ohlcv", **{**QUERY, **longer})).status_code == 200


@pytest.mark.parametrize(
    ("plan", "interval", "status"),
    [
        ("standard", "1m", 200),
        ("standard", "30s", 403),
        ("prime", "15s", 200),
        ("prime", "1s", 200),
        ("prime+raw", "1s", 200),
    ],
)
async def test_short_intervals_are_of_the_prime_plans(
    api: Api, plan: str, interval: str, status: int
) -> None:
    key = api.keys.add("x", plan)
    answer = await api.get("/data/ohlcv", key=key, **{**QUERY, "interval": interval})
    assert answer.status_code == status


@pytest.mark.parametrize("plan", ["preview", "standard", "prime"])
async def test_raw_is_of_its_plan(api: Api, plan: str) -> None:
    answer = await api.get("/data/raw/trades", key=api.keys.add("x", plan), **RAW_QUERY)
    assert (answer.status_code, answer.json()["code"]) == (403, "raw_not_in_plan")


async def test_the_demo_key_opens_nothing_but_previews(api: Api) -> None:
    put_days(api.store, ["2026-10-30"])
    assert (await api.get("/data/ohlcv", key="DEMO-KEY", **QUERY)).status_code == 403
    assert (await api.get("/data/raw/trades", key="DEMO-KEY", **RAW_QUERY)).status_code == 403
    answer = await api.get("/data/preview/ohlcv", key="DEMO-KEY", **QUERY)
    assert answer.json()["code"] == "not_in_preview"
    assert answer.json()["details"] == ["nothing is"]


async def test_a_revoked_key_is_refused_within_a_second(api: Api) -> None:
    identity = api.key.split("_")[1]
    assert (await api.get("/metadata/symbols", exchange=BINANCE)).status_code == 200
    type(api.keys)(api.keys.path).revoke(identity)  # by another process, say
    api.clock.now += 1
    assert (await api.get("/metadata/symbols", exchange=BINANCE)).status_code == 401


async def test_unknown_paths_and_methods_have_the_same_form(api: Api) -> None:
    for path in ("/nothing", "/data", "/data/raw/preview/trades/more"):
        answer = await api.get(path)
        assert answer.status_code == 404
        assert answer.json()["code"] == "not_found"
    answer = await api.http.post("/api/v1/metadata/catalog")
    assert answer.status_code == 405
    assert set(answer.json()) == {"error", "code"}


async def test_keys_in_the_query_are_no_keys(api: Api) -> None:
    answer = await api.get("/data/ohlcv", key="", **{**QUERY, "X-API-KEY": api.key})
    assert answer.status_code == 401


async def test_a_defect_is_told_without_its_reason(api: Api, monkeypatch) -> None:
    def defect(prefix: str) -> list[str]:
        raise RuntimeError("the inside of things")

    monkeypatch.setattr(api.store, "list", defect)
    answer = await api.get("/data/ohlcv", **QUERY)
    assert answer.status_code == 500
    assert answer.json() == {"error": "Internal error", "code": "internal"}
