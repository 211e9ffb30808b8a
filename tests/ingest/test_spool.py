"""The spool on real files: order, kills at any byte, bounds, damage."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.log import NewRecord
from ingest.spool import Spool, SpoolError

MANY = 1 << 30


def record(number: int, size: int = 20) -> NewRecord:
    value = b"%d\n" % number + bytes(size)
    return NewRecord("ticks.trades", number % 3, value, {"type": "trades", "seq": str(number)})


def numbers(records: list[NewRecord]) -> list[int]:
    return [int(r.headers["seq"]) for r in records]


def take_all(spool: Spool, at_once: int = MANY) -> list[int]:
    found: list[int] = []
    while batch := spool.read(at_once):
        found += numbers(batch)
        spool.forget(len(batch))
    return found


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.spool"))


def test_what_goes_in_comes_out_whole_and_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MANY, segment_bytes=500)
    sent = [record(n) for n in range(50)]
    for start in range(0, 50, 7):
        assert spool.write(sent[start : start + 7]) == len(sent[start : start + 7])
    assert len(spool) == 50
    first = spool.read(300)
    assert first == sent[: len(first)]
    assert take_all(spool, 300) == list(range(50))
    assert (len(spool), spool.size, segments(tmp_path)) == (0, 0, [])
    spool.close()


step = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 9)),
    st.tuples(st.just("take"), st.integers(1, 600)),
    st.tuples(st.just("kill"), st.integers(0, 60)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(step, max_size=40))
def test_kills_lose_nothing_and_keep_the_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """After a kill what was taken may come again, never out of order among the untaken."""
    directory = tmp_path_factory.mktemp("spool")
    spool = Spool(directory, MANY, segment_bytes=400)
    written = taken = 0
    for what, n in steps:
        if what == "write":
            spool.write([record(written + i) for i in range(n)])
            written += n
        elif what == "take":
            batch = spool.read(n)
            got = numbers(batch)
            assert got == list(range(taken, taken + len(got)))
            spool.forget(len(batch))
            taken += len(batch)
        else:
            spool.close()
            if n and (kept := segments(directory)):  # a write that was under way
                kept[-1].write_bytes(kept[-1].read_bytes() + b"\x40\0\0\0crc!" + bytes(n - 1))
            spool = Spool(directory, MANY, segment_bytes=400)
            again = written - len(spool)
            assert again <= taken
            taken = again
    assert take_all(spool) == list(range(taken, written))
    spool.close()


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 1_500))
def test_a_segment_cut_anywhere_gives_its_whole_records(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    spool = Spool(directory, MANY)
    ends = []
    for n in range(10):
        spool.write([record(n)])
        ends.append(spool.size)
    spool.close()
    (path,) = segments(directory)
    path.write_bytes(path.read_bytes()[:cut])
    spool = Spool(directory, MANY)
    assert take_all(spool) == list(range(sum(end <= cut for end in ends)))
    assert spool.damaged == 0
    spool.close()


def test_damage_is_told_and_kept_aside(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MANY, segment_bytes=300)
    for n in range(12):
        spool.write([record(n)])
    spool.close()
    first = segments(tmp_path)[0]
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    spool = Spool(tmp_path, MANY)
    lost = 12 - len(spool)
    assert lost == 1
    assert spool.damaged > 0
    assert first.with_suffix(".damaged").exists()
    assert len(take_all(spool)) == 11
    spool.close()


def test_damage_that_comes_later_costs_the_rest_of_its_segment(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MANY, segment_bytes=300)
    for n in range(12):
        spool.write([record(n)])
    first = segments(tmp_path)[0]
    first.write_bytes(bytes(len(first.read_bytes())))
    found = take_all(spool)
    assert found == list(range(12 - len(found), 12))
    assert 0 < len(found) < 12
    assert spool.damaged > 0
    spool.close()


def test_a_full_spool_takes_no_more_until_a_segment_is_gone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1_000, segment_bytes=300)
    fitting = spool.write([record(n) for n in range(100)])
    assert 0 < fitting < 100
    assert spool.size <= 1_000
    assert spool.write([record(fitting)]) == 0
    assert take_all(spool) == list(range(fitting))
    assert spool.write([record(fitting)]) == 1
    spool.close()


def test_a_record_larger_than_the_spool_fits_an_empty_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1_000)
    assert spool.write([record(0, 5_000), record(1)]) == 1
    assert spool.full
    assert take_all(spool) == [0]
    spool.close()


def test_two_processes_do_not_share_a_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MANY)
    with pytest.raises(SpoolError, match="in use"):
        Spool(tmp_path, MANY)
    spool.close()
    Spool(tmp_path, MANY).close()


def test_a_directory_that_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="can't spool to"):
        Spool(tmp_path / "file" / "spool", MANY)
