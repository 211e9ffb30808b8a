"""Files in the public layouts of the archives, made from rows of text; and what an import gave."""

import gzip
import hashlib
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from publish.raw_chunks import SCHEMAS
from publish.replay.imported import Imported
from publish.replay.importing import ImportOptions, import_all
from publish.store import Store

AGG_HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
TRADES_HEADER = "id,price,qty,quote_qty,time,is_buyer_maker"
BOOK_HEADER = (
    "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time"
)
OKX_OLD = "instrument_name,trade_id,side,price,size,created_time"
OKX_NEW = f"{OKX_OLD},source"
TARDIS_TRADES = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount"
TARDIS_QUOTES = (
    "exchange,symbol,timestamp,local_timestamp,ask_amount,ask_price,bid_price,bid_amount"
)
TARDIS_BOOK = "exchange,symbol,timestamp,local_timestamp," + ",".join(
    f"{side}[{i}].{of}" for i in range(5) for side in ("asks", "bids") for of in ("price", "amount")
)
DAY_MS = 1_704_067_200_000
"""2024-01-01."""
DAY_NS = DAY_MS * 1_000_000
AGG_TRADES = (
    f"1939590640,42313.9,0.020,4426132970,4426132970,{DAY_MS + 3},true",
    f"1939590641,42314.0,0.117,4426132971,4426132973,{DAY_MS + 125},false",
    f"1939590642,42314.0,1,4426132974,4426132974,{DAY_MS + 86_399_999},false",
)


def text_of(header: str | None, rows: Iterable[str], end: str = "\n") -> bytes:
    lines = [*([header] if header else []), *rows]
    return "".join(line + end for line in lines).encode()


def zipped(path: Path, text: bytes, checksum: bool = False) -> str:
    """A zip of one CSV, as the venues name it; with Binance's checksum beside it if wanted."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{path.stem}.csv", text)
    if checksum:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}\n")
    return str(path)


def gzipped(path: Path, text: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text, mtime=0))
    return str(path)


def scratch(directory: Path) -> Store:
    return Store(f"file://{directory}/scratch")


def imported(
    directory: Path, *given: str, options: ImportOptions | None = None
) -> tuple[list[Imported], Store]:
    store = scratch(directory)
    return import_all(given, options or ImportOptions(), store), store


def rows_of(store: Store, found: Sequence[Imported], kind: str) -> pa.Table:
    """All rows of a kind, as the chunks have them, in the order they were written."""
    tables = []
    for of in found:
        for key in of.keys(kind):
            with store.reading(key) as source:
                tables.append(pq.read_table(source).replace_schema_metadata(None))
    return pa.concat_tables([SCHEMAS[kind].empty_table(), *tables]).unify_dictionaries()
