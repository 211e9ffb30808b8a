"""An archive's runs and what is in its files then, for tests."""

from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ingest.log import Log
from publish.archive import Archive
from publish.raw_days import Instrument, day_key
from publish.store import Store
from tests.publish.bars import at
from tests.publish.ticks_on_log import BTC, EXCHANGE, NS

MIDNIGHT = at("2026-11-21 00:00")
DAY, NEXT = date(2026, 11, 20), date(2026, 11, 21)
LATER = MIDNIGHT + 3 * 86_400.0
"""Unix seconds: both days are over."""
LATENESS = 5 * NS
SOL = "perpetual-SOL-USDT:USDT"


async def run(log: Log, store: Store, now: float = LATER, **options: Any) -> None:
    """Archive what is on the log, make the files of days that are over, and stop."""
    made = Archive(log, store, lateness_ns=LATENESS, settle_s=0, now=lambda: now, **options)
    made.stop()
    await made.run()


def day(store: Store, kind: str = "trades", of: date = DAY, symbol: str = BTC) -> pa.Table:
    where = Instrument(kind, EXCHANGE, "" if kind == "sessions" else symbol)
    return pq.read_table(pa.BufferReader(store.get(day_key(where, of))))


def ids(store: Store, of: date = DAY, symbol: str = BTC) -> list[int]:
    return [int(i) for i in day(store, "trades", of, symbol)["id"].to_pylist()]


def ns(seconds: float) -> int:
    return round((MIDNIGHT + seconds) * NS)


def contents(store: Store) -> dict[str, list[Any]]:
    return {
        key: pq.read_table(pa.BufferReader(store.get(key))).to_pylist() for key in store.list("raw")
    }
