"""Row groups of raw files as ticks: every column, by collector, also of earlier versions' files."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from publish import raw_days
from publish.raw_chunks import QUOTES, SESSIONS, TRADES, read_chunk
from publish.raw_days import Instrument, day_key, existing_day
from publish.raw_pieces import pieces_of_chunk, read_piece, read_stamps, read_ticks
from publish.store import Store, StoreError
from tests.publish.replay.raw_archives import Seeded, seeded, write_archive

SEED = 41
VENUE, BTC = "okx-perps", "perpetual-BTC-USDT:USDT"
DAY = date(2026, 9, 3)


@pytest.fixture
def made() -> Seeded:
    return seeded(SEED, VENUE, BTC, [DAY], 700, stragglers=0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path}")


@pytest.mark.parametrize("opened", [None, DAY])
@pytest.mark.parametrize("kind", [TRADES, QUOTES])
def test_what_was_written_is_read(
    store: Store, made: Seeded, kind: str, opened: date | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_days, "ROW_GROUP", 300)
    write_archive(store, [made], opened=opened)
    if opened is None:
        pieces, _ = existing_day(store, day_key(Instrument(kind, VENUE, BTC), DAY))
        assert len(pieces) > 2
    else:
        [key] = store.list(f"raw_open/{kind}")
        pieces = list(pieces_of_chunk(read_chunk(store, key), lambda group: True))
    found: dict[str, list] = {}
    for piece in pieces:
        stamps = read_stamps(store, piece)
        assert piece.oldest == stamps.min()
        for collector, ticks in read_ticks(store, kind, piece, [BTC]):
            assert piece.low <= ticks.local_ts.min()
            assert ticks.local_ts.max() <= piece.high
            found.setdefault(collector, []).append(ticks)
    assert sorted(found) == ["c1", "c2"]
    for collector, parts in found.items():
        want = made.ticks[kind, collector]
        for name in want.names():
            got = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(got, getattr(want, name), f"{kind} {name} seed {SEED}")
            assert got.dtype == getattr(want, name).dtype


def test_quotes_of_files_that_lack_collector_and_row(store: Store, made: Seeded) -> None:
    write_archive(store, [made])
    key = day_key(Instrument(QUOTES, VENUE, BTC), DAY)
    table = pq.read_table(pa.BufferReader(store.get(key)))
    sink = pa.BufferOutputStream()
    pq.write_table(table.drop_columns(["collector", "row"]), sink, row_group_size=500)
    store.put(key, sink.getvalue().to_pybytes())
    pieces, _ = existing_day(store, key)
    rows = []
    for piece in pieces:
        [(collector, ticks)] = read_ticks(store, QUOTES, piece, [BTC])
        assert collector == ""
        assert read_piece(store, QUOTES, piece)["row"].to_pylist() == ticks.row.tolist()
        rows += ticks.row.tolist()
    assert rows == list(range(len(table)))  # over row groups too: ties go by it


def test_sessions_of_chunks_that_lack_what_lagged(store: Store, made: Seeded) -> None:
    write_archive(store, [made])
    key = day_key(Instrument(SESSIONS, VENUE, ""), DAY)
    table = pq.read_table(pa.BufferReader(store.get(key)))
    sink = pa.BufferOutputStream()
    pq.write_table(table.select(table.column_names[:9]), sink)
    store.put(key, sink.getvalue().to_pybytes())
    [piece], _ = existing_day(store, key)
    [row] = read_piece(store, SESSIONS, piece).to_pylist()
    assert (row["event"], row["symbol"], row["row_from"]) == ("covered", BTC, None)


def test_damage_is_named(store: Store, made: Seeded) -> None:
    write_archive(store, [made])
    key = day_key(Instrument(TRADES, VENUE, BTC), DAY)
    data = bytearray(store.get(key))
    data[100] ^= 1
    store.put(key, bytes(data))
    [piece], _ = existing_day(store, key)
    with pytest.raises(StoreError, match=f"{key} can't be read"):
        read_ticks(store, TRADES, piece, [BTC])
