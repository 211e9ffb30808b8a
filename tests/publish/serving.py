"""A store with files of bars and raw ticks, and the API over it, for tests."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from publish.api.access import Access, Limiter, Preview
from publish.api.app import PREFIX, Service, create_app
from publish.catalog import METRICS
from publish.keys import KeyFile
from publish.layout import Part, Series
from publish.listing import Listing
from publish.merging import Position, Rows
from publish.partitions import write_month, write_part
from publish.raw_days import Instrument, day_key
from publish.raw_rows import SCHEMAS_OF_DAYS
from publish.signing import LocalSigner
from publish.store import Store

BTC = "perpetual-BTC-USDT:USDT"
BINANCE = "binance-futures"
BASE = "http://api.test"


def series(dataset: str = "ohlcv", symbol: str = BTC, interval: str = "1h") -> Series:
    return Series(dataset, BINANCE, symbol, interval, "true")


def rows(dataset: str, day: str, count: int = 24) -> pa.Table:
    """`count` hourly rows from that day's start."""
    start = np.datetime64(day, "us")
    columns = {"time": pa.array(start + np.arange(count) * np.timedelta64(1, "h"))}
    for name, field in zip(_names(dataset), METRICS[dataset].fields[1:], strict=True):
        values = np.arange(count) + len(name)
        columns[name] = pa.array(values.astype(field.type))
    return pa.table(columns)


def _names(dataset: str) -> list[str]:
    return [field.name for field in METRICS[dataset].fields[1:]]


def put_days(store: Store, days: Sequence[str], of: Series | None = None) -> None:
    """Days of one month, in the month's file."""
    of = of or series()
    table = pa.concat_tables([rows(of.dataset, day) for day in days])
    write_month(store, of, table, days)


def put_part(store: Store, day: str, of: Series | None = None, hour: int | None = None) -> None:
    of = of or series()
    table = rows(of.dataset, day, 2)
    new = Rows(table, np.arange(2), Position(0, 2))
    assert write_part(store, of, Part(date.fromisoformat(day), hour), new)


def put_raw(store: Store, dataset: str, day: str, symbol: str = BTC, count: int = 10) -> None:
    """`count` ticks at the day's start, a second apart, laid out as DATASETS.md says."""
    start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    times = [start + timedelta(seconds=i) for i in range(count)]
    schema = SCHEMAS_OF_DAYS[dataset]
    arrays = [
        pa.array(times if pa.types.is_timestamp(field.type) else ["1"] * count).cast(field.type)
        for field in schema
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays, schema=schema), sink)
    key = day_key(Instrument(dataset, BINANCE, symbol), date.fromisoformat(day))
    store.put(key, sink.getvalue().to_pybytes())


class Clock:
    """Seconds that a test moves."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Api:
    """The application over a directory, asked without a socket; `clock` moves all its time."""

    def __init__(self, directory: Path, previews: Sequence[Preview] = ()) -> None:
        self.clock = Clock()
        self.store = Store(f"file://{directory / 'store'}")
        self.keys = KeyFile(directory / "keys.json", self.clock)
        self.key = self.keys.add("test", "prime+raw", 1000)
        signer = LocalSigner(None, self.keys.signing_secret, self.clock)
        access = Access(self.keys, previews, Limiter(self.clock))
        listing = Listing(self.store, self.clock)
        self.app = create_app(Service(self.store, listing, signer, access))
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url=BASE
        )

    async def get(self, path: str, key: str | None = None, **query: object) -> httpx.Response:
        """GET below /api/v1, with the test's key if not another's."""
        headers = {"X-API-KEY": self.key if key is None else key}
        return await self.http.get(PREFIX + path, params=query, headers=headers)

    async def files(self, dataset: str = "ohlcv", **query: object) -> list[dict]:
        answer = await self.get(f"/data/{dataset}", **{**QUERY, **query})
        assert answer.status_code == 200, answer.text
        return answer.json()["files"]


QUERY = {
    "timestamp": "true",
    "interval": "1h",
    "exchange": BINANCE,
    "symbol": BTC,
    "start_date": "2026-10-01",
    "end_date": "2026-11-30",
}
RAW_QUERY = {k: v for k, v in QUERY.items() if k not in ("timestamp", "interval")}
