"""What is imported once is not imported again; where files may be; what may be given together."""

from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from publish.raw_chunks import SCHEMAS
from publish.replay import imported as area
from publish.replay.importing import ImportOptions, import_all
from publish.replay.opening import expand
from publish.replay.sources.base import SourceError
from tests.publish.conftest import ACCESS_KEY, SECRET_KEY
from tests.publish.replay.archives import (
    AGG_HEADER,
    AGG_TRADES,
    DAY_MS,
    DAY_NS,
    TRADES_HEADER,
    gzipped,
    imported,
    rows_of,
    scratch,
    text_of,
    zipped,
)

NAME = "BTCUSDT-aggTrades-2024-01-01.zip"
TEXT = text_of(AGG_HEADER, AGG_TRADES)
OPTIONS = ImportOptions()


def test_it_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / NAME, TEXT)
    first, store = imported(tmp_path, path)
    monkeypatch.setattr("publish.replay.importing.import_table", None)
    moved = tmp_path / "elsewhere" / NAME
    moved.parent.mkdir()
    Path(path).rename(moved)
    [again] = import_all([str(moved)], OPTIONS, store)
    assert again.digest == first[0].digest
    assert again.sources[0]["url"] == str(moved)


def test_other_settings_or_another_content_are_another_import(tmp_path: Path) -> None:
    path = zipped(tmp_path / NAME, TEXT)
    digests = set()
    for latency_ns in (None, 1, 2):
        options = ImportOptions(assume_latency_ns=latency_ns)
        digests.add(imported(tmp_path, path, options=options)[0][0].digest)
    zipped(tmp_path / NAME, TEXT.replace(b"42313", b"42312"))
    digests.add(imported(tmp_path, path)[0][0].digest)
    assert len(digests) == 4


def test_a_file_that_had_another_files_name(tmp_path: Path) -> None:
    path = gzipped(tmp_path / "BTCUSDT-aggTrades-2024-01-02.csv.gz", TEXT)
    wrong = imported(tmp_path, path)[0][0]
    moved = Path(path).rename(tmp_path / "BTCUSDT-aggTrades-2024-01-01.csv.gz")
    right = imported(tmp_path, str(moved))[0][0]
    assert (wrong.coverage[0][1], right.coverage[0][1]) == (DAY_NS + 86_400 * 10**9, DAY_NS)


def test_what_was_cut_off_begins_anew(tmp_path: Path) -> None:
    path = zipped(tmp_path / NAME, TEXT)
    [of], store = imported(tmp_path, path)
    stale = area.chunk_key("trades", of.digest, 7)
    store.put(stale, b"half")
    store.delete(f"{area.ROOT}/done/{of.digest}.json")
    [again], _ = imported(tmp_path, path)
    assert again == of
    assert not store.exists(stale)


def test_chunks_and_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(area, "CHUNK_ROWS", 1000)
    monkeypatch.setattr(area, "GROUP_ROWS", 300)
    monkeypatch.setattr("publish.replay.sources.tables.BLOCK_BYTES", 10_000)
    rows = [f"{i},100.5,1,{i},{i},{DAY_MS + i},true" for i in range(5_000)]
    found, store = imported(tmp_path, zipped(tmp_path / NAME, text_of(AGG_HEADER, rows)))
    assert found[0].chunks["trades"] > 3
    assert rows_of(store, found, "trades")["id"].to_pylist() == list(range(5_000))
    with store.reading(found[0].keys("trades")[0]) as source:
        file = pq.ParquetFile(source)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        assert file.schema_arrow.remove_metadata().equals(SCHEMAS["trades"])
    assert sizes[:-1] == [300] * (len(sizes) - 1)
    assert sum(sizes) < 1_500


def test_files_over_processes(tmp_path: Path) -> None:
    names = {n: tmp_path / f"BTCUSDT-aggTrades-2024-01-0{n}.zip" for n in (1, 2, 3)}
    paths = [zipped(of, text_of(AGG_HEADER, AGG_TRADES[:n])) for n, of in names.items()]
    one, store_a = imported(tmp_path / "a", *paths)
    two, store_b = imported(tmp_path / "b", *paths, options=ImportOptions(processes=2))
    assert one == two
    assert rows_of(store_a, one, "trades").equals(rows_of(store_b, two, "trades"))


def test_globs_and_urls(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/replay/{NAME}", Path(zipped(tmp_path / NAME, TEXT)).read_bytes())
    (tmp_path / "other.txt").write_text("")
    for given in (f"{tmp_path}/*.zip", "memory://replay/*.zip", f"memory://replay/{NAME}"):
        found, _ = imported(tmp_path, given)
        assert found[0].read["trades"] == 3
    with pytest.raises(SourceError, match=r"\*\.gz matches no file"):
        expand([f"{tmp_path}/*.gz"])
    with pytest.raises(SourceError, match="is given more than once"):
        expand([f"{tmp_path}/*.zip", str(tmp_path / NAME)])
    with pytest.raises(SourceError, match=r"can't read memory://replay/none\.zip"):
        imported(tmp_path, "memory://replay/none.zip")
    with pytest.raises(SourceError, match="can't read nothing://x: Protocol not known"):
        imported(tmp_path, "nothing://x")
    with pytest.raises(SourceError, match=r"a directory that is no own archive .* give its files"):
        imported(tmp_path, str(tmp_path))


def test_from_s3_with_its_checksum(
    s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    fs = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    fs.mkdir("archives")
    local = Path(zipped(tmp_path / NAME, TEXT, checksum=True))
    fs.put_file(str(local), f"archives/{NAME}")
    fs.put_file(f"{local}.CHECKSUM", f"archives/{NAME}.CHECKSUM")
    found, _ = imported(tmp_path, "s3://archives/*.zip")
    assert (found[0].read["trades"], found[0].sources[0]["url"]) == (3, f"s3://archives/{NAME}")
    fs.pipe_file(f"archives/{NAME}.CHECKSUM", b"0" * 64)
    with pytest.raises(SourceError, match="its sha256 is"):
        import_all([f"s3://archives/{NAME}"], OPTIONS, scratch(tmp_path / "other"))


def test_the_same_day_twice(tmp_path: Path) -> None:
    one = zipped(tmp_path / NAME, TEXT)
    copy = Path(one).read_bytes()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / NAME).write_bytes(copy)
    found, store = imported(tmp_path, one, str(tmp_path / "a" / NAME))
    assert rows_of(store, found, "trades").num_rows == 3
    again = f"{tmp_path}/a/{NAME} has the content of a file before it: read once"
    assert found[0].problems == [again]
    month = zipped(tmp_path / "BTCUSDT-aggTrades-2024-01.zip", TEXT)
    row = f"7,1,1,1,{DAY_MS},true"
    trades = zipped(tmp_path / "BTCUSDT-trades-2024-01-01.zip", text_of(TRADES_HEADER, [row]))
    for other in (month, trades):
        with pytest.raises(SourceError, match=r"both have trades of perpetual-BTC-USDT:USDT"):
            imported(tmp_path, one, other)


def test_all_files_are_looked_at_before_one_is_imported(tmp_path: Path) -> None:
    good = zipped(tmp_path / NAME, TEXT)
    bad = gzipped(tmp_path / "x.csv.gz", b"a,b\n1,2\n")
    empty = gzipped(tmp_path / "y.csv.gz", b"")
    with pytest.raises(ExceptionGroup) as caught:
        imported(tmp_path, good, bad, empty)
    first, second = (str(error) for error in caught.value.exceptions)
    assert first.startswith(f"{bad} is in no format that is read")
    assert second == f"{empty} is empty"
    assert not (tmp_path / "scratch").exists()


def test_progress_is_in_bytes(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    path = zipped(tmp_path / NAME, TEXT)
    import_all([path], OPTIONS, scratch(tmp_path), lambda *of: seen.append(of))
    size = Path(path).stat().st_size
    assert seen[-1] == ("importing", size, size)
    assert all(0 <= done <= total == size for _, done, total in seen)


def test_the_extent_of_a_file_without_a_day(tmp_path: Path) -> None:
    rows = [f"USDC-X-SWAP,{i},buy,1,1,{DAY_MS + i},0" for i in (5, 1, 9)]
    listed = tmp_path / "list.json"
    listed.write_text(
        '{"code":"0","data":[{"instType":"SWAP","instId":"USDC-X-SWAP","ctType":"linear",'
        '"settleCcy":"X","ctVal":"1","ctMult":"1","state":"live"}]}'
    )
    header = "instrument_name,trade_id,side,price,size,created_time,source"
    path = gzipped(tmp_path / "some.csv.gz", text_of(header, rows))
    found, _ = imported(tmp_path, path, options=ImportOptions(instruments=(str(listed),)))
    span = DAY_NS + 1_000_000, DAY_NS + 9_000_001
    assert found[0].coverage == [("perpetual-USDC-X:X", *span * 2, False)]
    assert found[0].problems == [f"{path}:3: 1 rows from here on are out of order, kept"]
