"""The API's answers: files, symbols, coverage, catalog."""

import asyncio
from datetime import date
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import structlog

from publish.api.access import Preview
from publish.columns import Columns
from publish.listing import COVERAGE_FRESH_S, FRESH_S
from publish.partitions import fold
from tests.publish.serving import (
    BINANCE,
    BTC,
    QUERY,
    RAW_QUERY,
    Api,
    put_days,
    put_part,
    put_raw,
    series,
)


@pytest.fixture
def api(tmp_path: Path) -> Api:
    november = Preview(BINANCE, BTC, date(2026, 11, 1), date(2026, 11, 30))
    return Api(tmp_path, [november])


def whens(files: list[dict]) -> list[tuple]:
    return [(file["year"], file["month"], file.get("day")) for file in files]


async def test_month_files_and_the_parts_of_days_that_they_lack(api: Api) -> None:
    put_days(api.store, ["2026-09-30"])
    put_days(api.store, ["2026-10-30", "2026-10-31"])
    put_days(api.store, ["2026-11-01", "2026-11-02"])
    for day in ("2026-11-02", "2026-11-03", "2026-11-04"):  # the 2nd is folded, its part remains
        put_part(api.store, day)
    files = await api.files()
    assert whens(files) == [(2026, 10, None), (2026, 11, None), (2026, 11, 3), (2026, 11, 4)]
    assert whens(await api.files(start_date="2026-11-04", end_date="2026-11-04")) == [
        (2026, 11, None),
        (2026, 11, 4),
    ]
    tables = [pq.read_table(BytesIO((await api.http.get(file["url"])).content)) for file in files]
    assert [len(table) for table in tables] == [48, 48, 2, 2]
    assert len({tuple(table.column_names) for table in tables}) == 1


async def test_a_month_of_which_there_are_only_parts(api: Api) -> None:
    put_part(api.store, "2026-11-01")
    assert whens(await api.files()) == [(2026, 11, 1)]


async def test_a_fold_is_seen_after_a_few_seconds(api: Api) -> None:
    put_part(api.store, "2026-11-01")
    assert whens(await api.files()) == [(2026, 11, 1)]
    fold(api.store, Columns(api.store), series(), date(2026, 11, 1), api.clock())
    assert whens(await api.files()) == [(2026, 11, 1)]
    api.clock.now += FRESH_S
    assert whens(await api.files()) == [(2026, 11, None)]


async def test_many_who_ask_at_once_make_one_listing(api: Api, monkeypatch) -> None:
    put_days(api.store, ["2026-10-30"])
    listings = []
    original = api.store.list
    monkeypatch.setattr(api.store, "list", lambda key: listings.append(key) or original(key))
    answers = await asyncio.gather(*(api.files() for _ in range(20)))
    assert {len(files) for files in answers} == {1}
    assert len(listings) == 2


async def test_no_data_is_no_files(api: Api) -> None:
    put_days(api.store, ["2026-10-30"])
    assert await api.files(symbol="perpetual-NONE-USDT:USDT") == []
    assert await api.files(start_date="2025-01-01", end_date="2025-01-31") == []
    assert await api.files(start_date="0001-01-01", end_date="9999-12-31") != []
    answer = await api.get("/data/raw/trades", **RAW_QUERY)
    assert answer.json()["files"] == []


async def test_a_month_of_which_every_day_was_asked_for_once(api: Api) -> None:
    """The bounds are inclusive."""
    put_days(api.store, ["2026-10-31"])
    for start, end, files in (
        ("2026-10-31", "2026-10-31", 1),
        ("2026-11-01", "2026-11-30", 0),
        ("2026-09-01", "2026-10-01", 1),
        ("2026-09-01", "2026-09-30", 0),
    ):
        assert len(await api.files(start_date=start, end_date=end)) == files


async def test_symbols_of_every_dataset_and_of_open_parts(api: Api) -> None:
    put_days(api.store, ["2026-10-30"])
    put_part(api.store, "2026-11-01", series("l1_price", "perpetual-币安/*-USDT:USDT"))
    answer = await api.get("/metadata/symbols", exchange=BINANCE)
    assert answer.json()["symbols"] == [BTC, "perpetual-币安/*-USDT:USDT"]
    answer = await api.get("/metadata/symbols", exchange="okx-perps")
    assert answer.json()["symbols"] == []


async def test_raw_days_with_their_sizes_and_what_is_missing(api: Api) -> None:
    for day in ("2026-10-30", "2026-11-01"):
        put_raw(api.store, "trades", day)
    query = {**RAW_QUERY, "start_date": "2026-10-30", "end_date": "2026-11-02"}
    body = (await api.get("/data/raw/trades", **query)).json()
    assert [file["period"] for file in body["files"]] == ["2026-10-30", "2026-11-01"]
    assert body["missing_periods"] == ["2026-10-31", "2026-11-02"]
    assert body["expires_in"] == 3600
    for file in body["files"]:
        content = (await api.http.get(file["url"])).content
        assert len(content) == file["size"]


async def test_raw_coverage_needs_no_key(api: Api) -> None:
    for day in ("2026-10-30", "2026-11-01"):
        put_raw(api.store, "trades", day)
    put_raw(api.store, "quotes", "2026-11-01", "perpetual-ETH-USDT:USDT")
    body = (await api.get("/metadata/raw", key="")).json()
    found = body["coverage"]["trades"][BINANCE][BTC]
    size = found.pop("bytes")
    assert found == {"first": "2026-10-30", "last": "2026-11-01", "days": 2, "missing": 1}
    assert {
        "dataset": "trades",
        "exchange": BINANCE,
        "symbols": 1,
        "first": "2026-10-30",
        "last": "2026-11-01",
        "bytes": size,
    } in body["summary"]
    assert [d["name"] for d in body["datasets"]] == ["trades", "quotes", "gaps"]
    put_raw(api.store, "trades", "2026-11-02")
    api.clock.now += COVERAGE_FRESH_S
    body = (await api.get("/metadata/raw", key="")).json()
    assert body["coverage"]["trades"][BINANCE][BTC]["last"] == "2026-11-02"


async def test_previews_are_free_and_nothing_else_is(api: Api) -> None:
    put_days(api.store, ["2026-11-01"])
    put_raw(api.store, "trades", "2026-11-30")
    put_raw(api.store, "trades", "2026-12-01")
    query = {**QUERY, "start_date": "2026-11-01", "end_date": "2026-11-30"}
    answer = await api.get("/data/preview/ohlcv", key="DEMO-KEY", **query)
    assert whens(answer.json()["files"]) == [(2026, 11, None)]
    query["end_date"] = "2026-12-01"
    answer = await api.get("/data/preview/ohlcv", **query)
    assert answer.status_code == 403
    assert answer.json()["code"] == "not_in_preview"
    assert answer.json()["details"] == [f"{BINANCE} {BTC} from 2026-11-01 to 2026-11-30"]
    raw = {"exchange": BINANCE, "symbol": BTC}
    body = (await api.get("/data/raw/preview/trades", key="DEMO-KEY", **raw)).json()
    assert [file["period"] for file in body["files"]] == ["2026-11-30"]
    raw["symbol"] = "perpetual-ETH-USDT:USDT"
    assert (await api.get("/data/raw/preview/trades", **raw)).status_code == 403


async def test_a_store_that_fails_is_503_to_try_again(api: Api, monkeypatch) -> None:
    from publish.store import StoreError

    def fail(prefix: str) -> list[str]:
        raise StoreError("down")

    put_days(api.store, ["2026-10-30"])
    with monkeypatch.context() as broken:
        broken.setattr(api.store, "list", fail)
        answer = await api.get("/data/ohlcv", **QUERY)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert len(await api.files()) == 1, "a failure is not kept"


async def test_the_parts_of_1s_bars_are_hours(api: Api) -> None:
    second = series(interval="1s")
    for hour in (0, 13):
        put_part(api.store, "2026-11-01", second, hour)
    files = await api.files(interval="1s")
    assert whens(files) == [(2026, 11, 1), (2026, 11, 1)]
    assert len({file["url"].partition("?")[0] for file in files}) == 2


async def test_a_file_that_is_not_ours_is_named_in_the_log(api: Api) -> None:
    put_days(api.store, ["2026-10-30"])
    api.store.put(f"metrics/{series().path}/_SUCCESS", b"")
    with structlog.testing.capture_logs() as logs:
        answer = await api.get("/data/ohlcv", **QUERY)
    assert answer.status_code == 503
    assert "_SUCCESS" in str(logs)
