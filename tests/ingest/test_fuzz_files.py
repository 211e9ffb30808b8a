"""Files that others may have written or damaged: recordings and spools."""

import gzip
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import strategies as st

from ingest.batches import Universe
from ingest.instruments import OKX
from ingest.log import NewRecord
from ingest.recorded import parse_chunk
from ingest.recording import (
    MEMBER,
    ReadReport,
    RecordingError,
    RecordingHeader,
    read_frames,
    read_header,
)
from ingest.spool import _HEAD, Spool
from tests.ingest.fuzzing import EXAMPLES, changed, fuzz, readable
from tests.ingest.parsing import instrument
from tests.ingest.payloads import FRAMES

HEADER = RecordingHeader(OKX, "1789893896000000000", 1_789_893_896_000_000_000, (
    instrument(OKX, "BTC-USDT-SWAP", 0.01),
))  # fmt: skip
LINES = b"".join(
    b"17898938969200000%02d %b\n" % (i, frame)
    for i, frame in enumerate([HEADER.encode(), *FRAMES[OKX]])
)


def member(text: bytes) -> bytes:
    """A gzip member that starts like the recorder's."""
    return MEMBER + gzip.compress(text, mtime=0)[10:]


SEEDS = [LINES, gzip.compress(LINES, mtime=0), member(LINES) + member(LINES)]


@EXAMPLES
def test_recordings(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "recording"

    def check(payload: bytes) -> None:
        path.write_bytes(payload)
        report = ReadReport()
        try:
            frames = [(ns, frame) for _, ns, frame in read_frames(path, report)]
        except RecordingError as error:
            readable(error)
            return
        assert len(report.problems) < 200
        for _, header in report.headers:
            Universe(list({i.native: i for i in header.instruments}.values()))
        known = report.headers[-1][1].instruments if report.headers else ()
        if len({i.symbol for i in known}) == len(known) == len({i.native for i in known}):
            parse_chunk(OKX, known, frames, 0)

    fuzz(examples, changed(SEEDS), check)


@EXAMPLES
def test_headers(examples: int) -> None:
    def check(payload: bytes) -> None:
        try:
            header = RecordingHeader.decode(payload)
        except ValueError as error:
            readable(error)
        else:
            assert RecordingHeader.decode(header.encode()) == header

    fuzz(examples, changed([HEADER.encode()]), check)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_without_lines_is_not_held(packed: bool, tmp_path: Path) -> None:
    """100 MB of zeros are 100 kB of gzip."""
    path = tmp_path / "zeros"
    zeros = bytes(8 << 20)
    with gzip.open(path, "wb", 1) if packed else path.open("wb") as file:
        for _ in range(12):
            file.write(zeros)
    tracemalloc.start()
    with pytest.raises(RecordingError, match="no frame recording"):
        read_header(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 80 << 20


@EXAMPLES
def test_spools(examples: int, tmp_path: Path) -> None:
    records = [NewRecord("ticks.trades", i, b"value %d" % i, {"type": "trades"}) for i in range(4)]
    directory = tmp_path / "spool"
    spool = Spool(directory, 1 << 20)
    spool.write(records)
    spool.close()
    [segment] = directory.glob("*.spool")
    seed = segment.read_bytes()

    def check(payload: bytes) -> None:
        for old in directory.glob("*.*"):
            old.unlink()
        segment.write_bytes(payload)
        spool = Spool(directory, 1 << 20)
        try:
            found = []
            while batch := spool.read(100):
                found += batch
                spool.forget(len(batch))
            assert len(spool) == 0
            assert all(isinstance(r.partition, int) and isinstance(r.topic, str) for r in found)
            assert spool.write(records) == len(records)
            assert spool.read(1 << 20) == records
        finally:
            spool.close()

    fuzz(examples, changed([seed]) | st.builds(framed, changed([seed[8:60]])), check)


def framed(body: bytes) -> bytes:
    """A frame whose checksum is right, whatever it holds."""
    return _HEAD.pack(len(body), zlib.crc32(body)) + body
