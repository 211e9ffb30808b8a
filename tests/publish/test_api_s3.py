"""The API over a bucket: what it lists, S3 serves to whoever has the URLs."""

from io import BytesIO
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from publish.api.access import Access, Limiter
from publish.api.app import Service, create_app
from publish.keys import KeyFile
from publish.listing import Listing
from publish.signing import S3Signer
from publish.store import Store
from tests.publish.serving import (
    BASE,
    BINANCE,
    BTC,
    QUERY,
    RAW_QUERY,
    Clock,
    put_days,
    put_part,
    put_raw,
    series,
)

ODD = "perpetual-币安/*?-USDT:USDT"


@pytest.fixture
def store(s3_bucket: str, s3_endpoint: str) -> Store:
    return Store(f"{s3_bucket}/prefix", endpoint_url=s3_endpoint)


async def test_bars_raw_symbols_and_coverage(store: Store, tmp_path: Path) -> None:
    put_days(store, ["2026-10-30", "2026-10-31"])
    put_part(store, "2026-11-01")
    put_part(store, "2026-11-01", series(symbol=ODD))
    put_raw(store, "trades", "2026-10-31")
    keys = KeyFile(tmp_path / "keys.json")
    headers = {"X-API-KEY": keys.add("test", "prime+raw")}
    access = Access(keys, [], Limiter(Clock()))
    app = create_app(Service(store, Listing(store), S3Signer(store, None), access))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url=f"{BASE}/api/v1", headers=headers
    ) as api:
        for symbol, rows in ((BTC, [48, 2]), (ODD, [2])):
            answer = await api.get("/data/ohlcv", params={**QUERY, "symbol": symbol})
            assert [len(_table(file["url"])) for file in answer.json()["files"]] == rows
        [file] = (await api.get("/data/raw/trades", params=RAW_QUERY)).json()["files"]
        assert "X-Amz-Expires=3600" in file["url"]
        assert len(_content(file["url"])) == file["size"]
        answer = await api.get("/metadata/symbols", params={"exchange": BINANCE})
        assert answer.json()["symbols"] == [BTC, ODD]
        coverage = (await api.get("/metadata/raw")).json()["coverage"]
        assert coverage["trades"][BINANCE][BTC]["bytes"] == file["size"]
        assert (await api.get("/files/metrics/ohlcv")).status_code == 404


def _content(url: str) -> bytes:
    return httpx.get(url).raise_for_status().content


def _table(url: str) -> pa.Table:
    return pq.read_table(BytesIO(_content(url)))
