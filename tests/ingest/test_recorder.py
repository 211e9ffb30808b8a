import gzip
import io
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.recorder import (
    ReadReport,
    Recorder,
    RecordingError,
    RecordingFile,
    RecordingHeader,
    read_chunks,
    read_frames,
    read_header,
)
from ingest.records import Coverage
from tests.ingest.parsing import instrument, recorded

HOUR = 3_600_000_000_000
START = 1_791_270_000_000_000_000 // HOUR * HOUR + HOUR // 2
HEADER = RecordingHeader(
    "okx-perps", "1791269850000000000", START, (instrument("okx-perps", "BTC-USDT-SWAP", 0.01),)
)


def frames(n: int, start: int = START) -> list[tuple[int, bytes]]:
    return [(start + i, b'{"i":%d,"text":"abc"}' % i) for i in range(n)]


def read(path: Path, report: ReadReport | None = None) -> list[tuple[int, bytes]]:
    return [(ns, payload) for _, ns, payload in read_frames(path, report)]


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    with RecordingFile(path, HEADER) as file:
        file.write(frames(3))
        file.write([])
        file.write([(START + 9, b'{"a":\n1}'), (START + 10, b"pong")])
    report = ReadReport()
    assert read(path, report) == [*frames(3), (START + 9, b'{"a": 1}'), (START + 10, b"pong")]
    assert report.headers == [(1, HEADER)]
    assert (report.lines, report.bad_lines, report.problems) == (6, 0, [])
    assert read_header(path) == HEADER
    assert [len(chunk) for chunk in read_chunks(path, size=2)] == [2, 2, 1]
    # Any gzip reader takes it.
    assert gzip.decompress(path.read_bytes()).count(b"\n") == 6


def test_lines_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    with RecordingFile(path, HEADER) as file:
        file.write(frames(2))
    assert [line for line, _, _ in read_frames(path)] == [2, 3]


def test_a_restart_appends_and_never_truncates(tmp_path: Path) -> None:
    for session in range(3):
        recorder = Recorder(tmp_path, HEADER)
        recorder.write(frames(5, START + 10 * session))
        recorder.close()
        recorder.close()
    (name,) = files(tmp_path)
    assert name.startswith("okx-perps-2026-")
    report = ReadReport()
    got = read(tmp_path / name, report)
    assert got == [frame for session in range(3) for frame in frames(5, START + 10 * session)]
    assert [line for line, _ in report.headers] == [1, 7, 13]


def test_rotation_by_hour_and_size(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, HEADER, rotate_bytes=2_000)
    noise = [(START + i, b'{"x":"%s"}' % os.urandom(600).hex().encode()) for i in range(4)]
    for frame in noise:
        recorder.write([frame])
        recorder.flush()
    recorder.write(frames(2, START + HOUR))
    recorder.close()
    names = files(tmp_path)
    assert len(names) == 3
    together = sorted(frame for name in names for frame in read(tmp_path / name))
    assert together == [*noise, *frames(2, START + HOUR)]
    # Each is complete by itself, from its own first frame on.
    last = read_header(tmp_path / names[-1])
    assert last is not None
    assert last.local_from == START + HOUR


def test_a_restart_goes_on_in_the_newest_file_of_the_hour(tmp_path: Path) -> None:
    for _ in range(3):
        recorder = Recorder(tmp_path, HEADER, rotate_bytes=1_000)
        recorder.write([(START, b'{"x":"%s"}' % os.urandom(600).hex().encode())])
        recorder.close()
    assert len(files(tmp_path)) == 2  # two sessions fill the first file


def test_coverage_and_changed_instruments_are_written_where_they_happened(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, replace(HEADER, covered=()))
    recorder.write(frames(1))
    coverage = Coverage([HEADER.instruments[0].symbol], START + 5, START + 4, anew=True)
    recorder.covered(coverage)
    recorder.write(frames(1, START + 6))
    other = instrument("okx-perps", "ETH-USDT-SWAP", 0.1)
    bigger = replace(HEADER.instruments[0], contract_size=1.0)
    recorder.changed([bigger, other], gone=())
    recorder.write(frames(1, START + 7))
    recorder.write(frames(1, START + HOUR))
    recorder.changed([bigger, other], gone=[bigger.native])
    recorder.write(frames(1, START + 2 * HOUR))
    recorder.close()
    first, second, third = files(tmp_path)
    report = ReadReport()
    assert len(read(tmp_path / first, report)) == 3
    assert report.coverage == [coverage]
    assert [(line, header.instruments) for line, header in report.headers] == [
        (1, HEADER.instruments),
        (5, (bigger, other)),
    ]
    assert all(header.whole == set() for _, header in report.headers)
    # A file that continues another knows what is covered from its start.
    header = read_header(tmp_path / second)
    assert header is not None
    assert (header.whole, header.local_from) == ({bigger.symbol}, START + HOUR)
    header = read_header(tmp_path / third)
    assert header is not None
    assert (header.whole, header.instruments) == (set(), (bigger, other))


def test_flushed_frames_can_be_read_while_recording_goes_on(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, HEADER)
    recorder.write(frames(100))
    recorder.flush()
    report = ReadReport()
    path = tmp_path / files(tmp_path)[0]
    assert read(path, report) == frames(100)
    assert report.problems == [f"{path}:102: truncated gzip"]
    recorder.close()


RECORD_AND_DIE = """
import os, signal, sys
from ingest.recorder import Recorder
from tests.ingest.test_recorder import HEADER, frames
recorder = Recorder(sys.argv[1], HEADER)
recorder.write(frames(1000))
recorder.flush()
recorder.write(frames(50_000))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    for _ in range(2):
        died = subprocess.run([sys.executable, "-c", RECORD_AND_DIE, str(tmp_path)], timeout=60)
        assert died.returncode == -signal.SIGKILL
    recorder = Recorder(tmp_path, HEADER)
    recorder.write(frames(3))
    recorder.close()
    (name,) = files(tmp_path)
    report = ReadReport()
    got = read(tmp_path / name, report)
    assert got[:1000] == frames(1000)
    assert got[-3:] == frames(3)
    assert len(report.headers) == 3
    assert all(payload.endswith(b"}") for _, payload in got)
    assert [p for p in report.problems if "truncated gzip; going on behind it" in p]
    assert f"{tmp_path / name}:" in report.problems[0]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 2_000), second=st.booleans())
def test_a_member_cut_anywhere_gives_its_whole_lines(cut: int, second: bool) -> None:
    whole = member(frames(300))
    torn = whole[: max(1, len(whole) - cut)]
    data = torn + (member(frames(5, START + 1000)) if second else b"")
    report = ReadReport()
    try:
        got = [(ns, payload) for _, ns, payload in read_frames(io.BytesIO(data), report)]
    except RecordingError:
        assert not second  # not even the header line was left
        return
    good = [frame for frame in got if frame[0] < START + 1000]
    assert good == frames(300)[: len(good)]
    assert got[len(good) :] == (frames(5, START + 1000) if second else [])
    assert report.problems


def member(content: list[tuple[int, bytes]]) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "r.gz"
        with RecordingFile(path, HEADER) as file:
            file.write(content)
        return path.read_bytes()


def test_damage_inside_costs_what_is_behind_it_in_that_member(tmp_path: Path) -> None:
    first = bytearray(member([(START + i, os.urandom(50).hex().encode()) for i in range(2000)]))
    middle = len(first) // 2
    first[middle : middle + 40] = b"\xff" * 40
    path = tmp_path / "r.gz"
    path.write_bytes(bytes(first) + member(frames(5)))
    report = ReadReport()
    got = read(path, report)
    assert got[-5:] == frames(5)
    assert len(got) > 900
    assert any("damaged gzip" in problem for problem in report.problems)


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000])
def test_stamps_in_ns_us_and_ms_plain_or_gzip(tmp_path: Path, unit: int) -> None:
    text = b"%d {}\n%d {}\n" % (START // unit, START // unit + 1)
    expected = [(START // unit * unit, b"{}"), ((START // unit + 1) * unit, b"{}")]
    (tmp_path / "plain").write_bytes(text)
    (tmp_path / "r.gz").write_bytes(gzip.compress(text[:30]) + gzip.compress(text[30:]) + b"\0" * 8)
    assert read(tmp_path / "plain") == read(tmp_path / "r.gz") == expected
    assert read_header(tmp_path / "plain") is None


def test_bad_lines_are_named_and_skipped(tmp_path: Path) -> None:
    good = b'%d {"a":1}\n' % START
    bad = [b"no stamp {}", b"12345 {}", b"+791270000000000000 {}", b"9999999999999999999 {}"]
    stamp_only = b"%d" % START
    path = tmp_path / "r"
    path.write_bytes(good + b"\n" + b"\n".join([*bad, stamp_only]) + b"\n" + good)
    report = ReadReport()
    assert len(read(path, report)) == 2
    assert report.bad_lines == 5
    assert report.problems[0] == f"{path}:3: not `<local ns> <frame>`, skipped: b'no stamp {{}}'"


def test_a_last_line_without_its_end_counts_if_its_frame_is_whole(tmp_path: Path) -> None:
    line = b'%d {"a":1}' % START
    path = tmp_path / "r"
    path.write_bytes(line + b"\n" + line)
    assert len(read(path)) == 2
    path.write_bytes(line + b"\n" + line[:-2])
    report = ReadReport()
    assert len(read(path, report)) == 1
    assert report.problems == [f"{path}:2: ends in half a line, skipped: {line[:-2]!r}"]


def test_a_damaged_header_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(b'%d {"perpflow":"recording","exchange":1}\n%d {}\n' % (START, START))
    report = ReadReport()
    assert len(read(path, report)) == 1
    assert f"{path}:1: not a recording's header" in report.problems[0]


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b"# Title\n\ntext\n" * 100, gzip.compress(b"")],
    ids=["empty", "blank lines", "text", "empty gzip"],
)
def test_what_is_no_recording_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.md"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"notes.md is no frame recording"):
        read(path)


def test_missing_files_and_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"absent.gz: No such file"):
        read(tmp_path / "absent.gz")
    with pytest.raises(RecordingError, match="directory"):
        read_header(tmp_path)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RecordingError, match="can't make the recording directory"):
        Recorder(tmp_path / "file" / "sub", HEADER)


def test_a_full_disk_is_told_and_the_next_write_tries_again(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    recorder = Recorder(tmp_path, HEADER)
    recorder.write(frames(1))
    path = tmp_path / files(tmp_path)[0]
    recorder.close()
    saved = path.read_bytes()
    path.unlink()
    path.symlink_to("/dev/full")
    recorder = Recorder(tmp_path, HEADER)
    for _ in range(2):
        with pytest.raises(RecordingError, match="No space left"):
            recorder.write(frames(1))
    path.unlink()
    path.write_bytes(saved)
    recorder.write(frames(2))
    recorder.close()
    assert read(path) == [*frames(1), *frames(2)]


def test_two_recorders_of_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    with (
        RecordingFile(path, HEADER),
        pytest.raises(RecordingError, match="being recorded by another process"),
    ):
        RecordingFile(path, HEADER)
    assert read_header(path) == HEADER


@pytest.mark.parametrize(
    ("name", "lines", "first_ns"),
    [
        ("binance/usdm_ws_btcusdt_20240718.gz", 11_414, 1721347020984480942),
        ("binance/usdm_ws_btcusdt_20230404.dat.gz", 13_384, 1680652700423575000),
        ("hyperliquid/ws_raw_btc_20250126.gz", 55, 1737918843893903000),
    ],
)
def test_recordings_of_others(name: str, lines: int, first_ns: int) -> None:
    report = ReadReport()
    got = read(recorded(name), report)
    assert (len(got), got[0][0]) == (lines, first_ns)
    assert not report.problems
