"""Archives that others may have written or damaged: no exception but the source's own."""

import gzip
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import strategies as st

from ingest.errors import UserError
from publish.raw_chunks import SCHEMAS
from publish.replay.importing import ImportOptions, import_all
from publish.store import Store
from tests.ingest.fuzzing import EXAMPLES, changed, fuzz, readable
from tests.publish.replay import archives as made
from tests.publish.replay.archives import DAY_MS, rows_of, text_of

US = DAY_MS * 1_000
FILES = {
    "BTCUSDT-aggTrades-2024-01-01.csv": [
        text_of(header, made.AGG_TRADES) for header in (made.AGG_HEADER, None)
    ],
    "BTCUSDT-trades-2024-01-01.csv": [
        text_of(header, [f"{i},42313.9,0.02,846.2,{DAY_MS + i},true" for i in range(3)])
        for header in (made.TRADES_HEADER, None)
    ],
    "BTCUSDT-bookTicker-2024-01-01.csv": [
        text_of(made.BOOK_HEADER, [f"{i},1.5,9.1,1.6,2.5,{DAY_MS},{DAY_MS + i}" for i in range(3)])
    ],
    "X-USDT-SWAP-trades-2024-01-01.csv": [
        text_of(made.OKX_NEW, [f"X-USDT-SWAP,{i},sell,0.5,2.0,{DAY_MS + i},0" for i in range(3)])
    ],
    "binance-futures_trades_2024-01-01_BTCUSDT.csv": [
        text_of(
            made.TARDIS_TRADES,
            [f"binance-futures,BTCUSDT,{US},{US + i},{i},buy,1.5,2" for i in range(3)],
        )
    ],
    "binance-futures_quotes_2024-01-01_BTCUSDT.csv": [
        text_of(made.TARDIS_QUOTES, [f"binance-futures,BTCUSDT,{US},{US},2,1.5,1.4,2", "x"]),
        text_of(made.TARDIS_BOOK, [f"binance-futures,BTCUSDT,{US},{US}" + ",1.5" * 20] * 2),
    ],
    "20240101_prices_BTC.csv": [
        text_of(
            "timestamp,price,size,side,exchange_timestamp",
            [f"{DAY_MS // 1_000}.5,1.5,2,{side},{DAY_MS}" for side in ("bid", "ask", "bid")],
        )
    ],
    "raw": [
        b'2024-01-01T00:00:00.0000001Z {"stream":"x","data":{"e":"trade","E":1,"T":1704067200000,'
        b'"s":"BTCUSDT","t":1,"p":"1","q":"2","X":"MARKET","m":true}}\n\n'
    ],
}
LISTED = (
    '{"code":"0","data":[{"instType":"SWAP","instId":"X-USDT-SWAP","ctType":"inverse",'
    '"settleCcy":"X","ctVal":"10","ctMult":"1","state":"live"}]}'
)


def packed(name: str, text: bytes) -> list[tuple[str, bytes]]:
    """The text plain, as gzip, and as a zip, each with the name it then has."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr(name, text)
    inside = name.replace(".csv", ".zip")
    return [(name, text), (f"{name}.gz", gzip.compress(text, mtime=0)), (inside, zipped.getvalue())]


@EXAMPLES
@pytest.mark.parametrize("name", FILES)
def test_archives(name: str, examples: int, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(LISTED)
    lists = (str(tmp_path / "list.json"),)
    store = Store(f"file://{tmp_path}/scratch")
    seeds = [of for text in FILES[name] for of in packed(name, text)]
    inputs = st.one_of(
        *(st.tuples(st.just(named), changed([seed])) for named, seed in seeds),
        *(st.tuples(st.just(name), changed(FILES[name])) for _ in seeds),
    )

    def check(file: tuple[str, bytes]) -> None:
        path = tmp_path / file[0]
        path.write_bytes(file[1])
        exchange = "binance-futures" if name == "raw" else None
        try:
            found = import_all([str(path)], ImportOptions(exchange, lists), store)
        except UserError as error:
            readable(error)
            return
        assert len(found[0].problems) < 200
        for kind in ("trades", "quotes"):
            assert rows_of(store, found, kind).schema.equals(SCHEMAS[kind])

    fuzz(examples, inputs, check)


@EXAMPLES
def test_lists_of_instruments(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(FILES["binance-futures_trades_2024-01-01_BTCUSDT.csv"][0])
    listed = tmp_path / "list.json"
    store = Store(f"file://{tmp_path}/scratch")

    def check(payload: bytes) -> None:
        listed.write_bytes(payload)
        try:
            import_all([str(path)], ImportOptions(instruments=(str(listed),)), store)
        except UserError as error:
            readable(error)

    fuzz(examples, changed([LISTED.encode()]), check)
