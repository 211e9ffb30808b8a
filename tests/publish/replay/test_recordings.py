"""Frames: recordings and Tardis' raw lines, through an import."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ingest.instruments import HYPERLIQUID
from ingest.recorded import files_in_order, recorded_ticks
from ingest.ticks import BACKLOG, LIVE
from publish.replay.importing import ImportOptions
from publish.replay.sources.base import SourceError
from tests.end_to_end.recordings import lines_of, recording
from tests.publish.replay.archives import gzipped, imported, rows_of, zipped

BINANCE = ImportOptions(exchange="binance-futures")
DAYS = ("binance/usdm_ws_btcusdt_20240718.gz", "binance/usdm_ws_btcusdt_20240719.gz")
SECOND = 1_000_000_000


def as_tardis(line: bytes) -> bytes:
    """A frame line with Tardis' stamp: ISO, 100 ns."""
    stamp, _, frame = line.partition(b" ")
    second, rest = divmod(int(stamp), SECOND)
    text = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 100:07}Z"
    return text.encode() + b" " + frame


def test_an_import_has_what_the_recordings_have(tmp_path: Path) -> None:
    paths = [recording(name) for name in DAYS]
    found, store = imported(tmp_path, *map(str, reversed(paths)), options=BINANCE)
    files = files_in_order(paths, "binance-futures")
    batches = list(recorded_ticks(files, "binance-futures", ()))
    for kind, at in (("trades", 0), ("quotes", 1)):
        rows = rows_of(store, found, kind)
        for name in ("exchange_ts", "local_ts", "row", "bid_price" if at else "id"):
            expected = np.concatenate([getattr(batch[at], name) for batch in batches])
            assert (rows[name].to_numpy() == expected).all()
    [of] = found
    symbol, ends = "perpetual-BTC-USDT:USDT", (files[1].local_to, files[1].exchange_to)
    starts = [file.coverage[0] for file in files]
    assert of.coverage == [
        (symbol, start.local_from, ends[0], start.exchange_from, ends[1], False) for start in starts
    ]
    assert of.arrival == "recorded"
    assert of.read["frames"] == sum(file.parsing.frames for file in files)


def test_raw_lines_of_tardis_are_recordings(tmp_path: Path) -> None:
    lines = lines_of(recording(DAYS[0]))[:500]
    plain = tmp_path / "own.gz"
    plain.write_bytes(gzip.compress(b"".join(lines)))
    raw = tmp_path / "tardis.gz"
    raw.write_bytes(gzip.compress(b"".join(map(as_tardis, lines))))
    one, store_a = imported(tmp_path / "a", str(plain), options=BINANCE)
    two, store_b = imported(tmp_path / "b", str(raw), options=BINANCE)
    for kind in ("trades", "quotes"):
        rows, same = rows_of(store_a, one, kind), rows_of(store_b, two, kind)
        assert len(rows) == len(same) > 0
        stamps = [table["local_ts"].to_numpy() // 100 for table in (rows, same)]
        assert (stamps[0] == stamps[1]).all()
        assert rows.drop_columns("local_ts").equals(same.drop_columns("local_ts"))


def test_an_empty_line_is_a_lost_connection(tmp_path: Path) -> None:
    """Hyperliquid's first trades after it are backlog once more."""
    frame = (
        b'{"channel":"trades","data":[{"coin":"BTC","side":"B","px":"1","sz":"2",'
        b'"time":1704067200000,"hash":"0x","tid":%d}]}'
    )
    stamp = b"2024-01-01T00:00:0%d.0000000Z "
    lines = [stamp % i + frame % i for i in range(1, 5)]
    lines[2:2] = [b""]
    for name, joined in (("a", lines), ("b", [*lines[:3], *lines[2:3], *lines[3:]])):
        path = gzipped(tmp_path / name / "raw.gz", b"".join(line + b"\n" for line in joined))
        options = ImportOptions(exchange=HYPERLIQUID)
        found, store = imported(tmp_path / name, path, options=options)
        origins = rows_of(store, found, "trades")["origin"].to_pylist()
        assert origins == [BACKLOG, LIVE, BACKLOG, LIVE]
        assert found[0].read["disconnects"] == 1
    unbroken = gzipped(tmp_path / "c" / "raw.gz", b"\n".join(line for line in lines if line))
    found, store = imported(tmp_path / "c", unbroken, options=ImportOptions(exchange=HYPERLIQUID))
    assert rows_of(store, found, "trades")["origin"].to_pylist() == [BACKLOG, *[LIVE] * 3]


@pytest.mark.parametrize(
    "stamp",
    [
        "2024-13-01T00:00:00.1234567Z",
        "2024-01-01 00:00:00.1234567Z",
        "2024-01-01T00:00:00.12345678",
        "2024-01-01T00:00:00,1234567Z",
        "1900-01-01T00:00:00.1234567Z",
    ],
)
def test_other_stamps_are_bad_lines(stamp: str, tmp_path: Path) -> None:
    good = as_tardis(lines_of(recording(DAYS[0]))[5])
    path = gzipped(tmp_path / "raw.gz", good + f"{stamp} {{}}\n".encode() + good)
    found, _ = imported(tmp_path, path, options=BINANCE)
    assert found[0].read["frames"] == 2
    assert found[0].problems[0].startswith(f"{path}:2: not `<local ns> <frame>`, skipped")


def test_whose_frames_they_are_has_to_be_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not say which exchange it is of: pass --venue"):
        imported(tmp_path, str(recording(DAYS[0])))


def test_frames_in_a_zip_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "frames.zip", lines_of(recording(DAYS[0]))[5])
    with pytest.raises(SourceError, match="frames are read plain or as gzip: unzip it first"):
        imported(tmp_path, path, options=BINANCE)


def test_the_same_recording_twice_is_read_once(tmp_path: Path) -> None:
    text = b"".join(lines_of(recording(DAYS[0]))[:50])
    one, two = (gzipped(tmp_path / name, text) for name in ("one.gz", "two.gz"))
    found, _ = imported(tmp_path, one, two, options=BINANCE)
    assert found[0].read["frames"] == 50
    assert [of["url"] for of in found[0].sources] == [one]
    assert found[0].problems == [f"{two} has the content of a file before it: read once"]
