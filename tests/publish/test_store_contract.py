"""The contract of `publish.store.Store`, on a directory and on a real S3 server."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from publish.store import NotFound, Replaced, Store, StoreError
from tests.publish.faulty_proxy import FaultyProxy

KEY = "metrics/flow/exchange=e/symbol=perpetual-BTC-USDT:USDT/data.parquet"


def test_put_then_get_and_replace(store: Store) -> None:
    assert not store.exists(KEY)
    store.put(KEY, b"one")
    assert store.get(KEY) == b"one"
    store.put(KEY, b"")
    assert store.get(KEY) == b""
    assert store.exists(KEY)


def test_symbols_with_percent_and_colon(store: Store) -> None:
    key = "metrics/symbol=a%2Fb:c%25=d/data.parquet"
    store.put(key, b"1")
    assert store.get(key) == b"1"
    assert store.list("metrics") == [key]


def test_a_missing_object_is_named(store: Store) -> None:
    with pytest.raises(NotFound, match="nothing/here"):
        store.get("nothing/here")
    with pytest.raises(NotFound, match="nothing/here"), store.reading("nothing/here"):
        pass


def test_list_is_recursive_sorted_and_only_below_the_prefix(store: Store) -> None:
    keys = ["a/z", "a/b/c", "a/b/d", "ab/x"]
    for key in keys:
        store.put(key, b"")
    assert store.list("a") == ["a/b/c", "a/b/d", "a/z"]
    assert store.list("a/b") == ["a/b/c", "a/b/d"]
    assert store.list("none") == []


def test_list_sees_what_another_client_wrote_and_deleted(
    store: Store, another: Callable[[], Store]
) -> None:
    store.put("a/1", b"")
    assert store.list("a") == ["a/1"]
    assert store.exists("a/1")
    other = another()
    other.put("a/2", b"")
    other.delete("a/1")
    assert store.list("a") == ["a/2"]
    assert not store.exists("a/1")


def test_delete_twice(store: Store) -> None:
    store.put(KEY, b"1")
    store.delete(KEY)
    store.delete(KEY)
    assert not store.exists(KEY)
    assert store.list("metrics") == []
    store.put(KEY, b"2")
    assert store.get(KEY) == b"2"


def test_ranges_of_an_object(store: Store) -> None:
    store.put(KEY, bytes(range(200)))
    with store.reading(KEY) as source:
        source.seek(100)
        assert source.read(3) == bytes([100, 101, 102])
        source.seek(-1, os.SEEK_END)
        assert source.read() == bytes([199])


def test_replacing_is_whole_or_not_at_all(store: Store) -> None:
    store.put(KEY, b"old")
    with store.replacing(KEY) as sink:
        sink.write(b"ne")
        sink.write(b"w")
        sink.flush()
        assert store.get(KEY) == b"old"
    assert store.get(KEY) == b"new"
    with pytest.raises(ZeroDivisionError), store.replacing(KEY) as sink:
        sink.write(b"%d" % (1 // 0 if sink.write(b"half") else 0))
    assert store.get(KEY) == b"new"
    assert store.list("metrics") == [KEY]


@pytest.mark.parametrize("links", [True, False])
def test_a_copy_stays_what_it_was(
    store: Store, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    store.put("a=1/%2F", b"1")
    for _ in range(2):
        store.copy("a=1/%2F", "b/c")
    store.put("a=1/%2F", b"2")
    assert (store.get("b/c"), store.get("a=1/%2F")) == (b"1", b"2")
    store.copy("a=1/%2F", "b/c")
    store.delete("a=1/%2F")
    assert store.get("b/c") == b"2"
    assert store.list("") == ["b/c"]
    with pytest.raises(StoreError, match="can't copy none"):
        store.copy("none", "b/c")


def test_a_large_object_arrives_whole(store: Store) -> None:
    block = os.urandom(1 << 20)
    with store.replacing(KEY) as sink:
        for _ in range(60):
            sink.write(block)
    with store.reading(KEY) as source:
        source.seek(59 << 20)
        assert source.read() == block


def test_readers_never_see_a_part(store: Store) -> None:
    versions = [bytes([i]) * 200_000 for i in range(30)]
    store.put(KEY, versions[0])
    done = threading.Event()

    def read() -> int:
        seen = 0
        while not done.is_set():
            data = store.get(KEY)
            assert len(data) == 200_000
            assert len(set(data)) == 1
            seen += 1
        return seen

    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(read) for _ in range(2)]
        try:
            for version in versions:
                store.put(KEY, version)
        finally:
            done.set()
        assert all(reader.result() > 0 for reader in readers)


def test_threads_write_at_once(store: Store) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: store.put(f"a/{i}/x", b"%d" % i), range(64)))
        found = list(threads.map(lambda i: store.get(f"a/{i}/x"), range(64)))
    assert found == [b"%d" % i for i in range(64)]


def test_check_leaves_nothing(store: Store) -> None:
    store.check()
    store.put("a", b"")
    assert store.list("") == ["a"]


def test_check_says_that_a_directory_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(f"file://{tmp_path}/file/data")
    with pytest.raises(StoreError, match=r"file/data is not writable: .*Not a directory"):
        store.check()


def test_check_says_that_s3_refuses_the_key(
    s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match=r"is not writable: .*signature"):
        Store(s3_bucket, endpoint_url=s3_endpoint).check()


def test_an_s3_server_that_is_not_there(s3_bucket: str) -> None:
    store = Store(s3_bucket, endpoint_url="http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"can't read a/b: .*127\.0\.0\.1:9"):
        store.get("a/b")


@pytest.mark.parametrize("url", ["", "data", "/data", "file://", "gs://bucket", "s3:/bucket"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(StoreError, match="use file://DIRECTORY or s3://BUCKET/PREFIX"):
        Store(url)


def test_a_relative_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("file://./data")
    store.put("a/b", b"1")
    assert (tmp_path / "data" / "a" / "b").read_bytes() == b"1"
    assert store.list("a") == ["a/b"]


def test_sweep_removes_old_leftovers_of_killed_writers_only(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}")
    store.put("a/x", b"1")
    old, new = tmp_path / "a" / ".perpflow-tmp-old", tmp_path / "a" / ".perpflow-tmp-new"
    for leftover in (old, new):
        leftover.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert store.list("a") == ["a/x"]
    store.sweep()
    assert [old.exists(), new.exists(), store.exists("a/x")] == [False, True, True]


def test_the_last_object_takes_its_directories_with_it(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/store")
    store.put("a/b/c", b"1")
    store.put("a/x", b"2")
    store.delete("a/b/c")
    assert not (tmp_path / "store" / "a" / "b").exists()
    assert store.list("") == ["a/x"]


def test_what_is_read_in_parts_is_of_one_version(store: Store) -> None:
    """A directory keeps the old one for who reads it; S3 tells that it is gone."""
    block = 8 << 20
    store.put(KEY, b"1" * block)
    with store.reading(KEY) as source:
        first = source.read(100)
        store.put(KEY, b"2" * block)
        source.seek(block - 100)
        try:
            assert first + source.read() == b"1" * 200
        except OSError as error:
            with pytest.raises(Replaced, match="can't read"), store._errors("read", KEY):
                raise error


@pytest.mark.parametrize("by_key", [False, True])
def test_encryption_is_asked_of_s3_for_every_object(
    s3_bucket: str, s3_endpoint: str, by_key: bool
) -> None:
    settings = {"encryption": "AES256"}
    if by_key:
        settings = {"encryption": "aws:kms", "kms_key": "a-key"}
    with FaultyProxy(s3_endpoint, seed=1, share=0.0) as proxy:
        store = Store(s3_bucket, endpoint_url=proxy.url, **settings)
        with suppress(StoreError):  # this server has no such keys
            store.put("small", b"1")
        with suppress(StoreError), store.replacing("large") as sink:
            sink.write(b"1")
        Store(s3_bucket, endpoint_url=s3_endpoint).put("there", b"1")
        with suppress(StoreError):
            store.copy("there", "copied")
    written = [headers for method, _, headers in proxy.requests if method in ("PUT", "POST")]
    assert len(written) >= 3
    for headers in written:
        assert headers["x-amz-server-side-encryption"] == settings["encryption"]
        assert headers.get("x-amz-server-side-encryption-aws-kms-key-id") == settings.get("kms_key")


@pytest.mark.parametrize("kind", ["error 500", "drop before"])
def test_s3_that_keeps_failing_is_told_in_bounded_time(
    s3_bucket: str, s3_endpoint: str, kind: str
) -> None:
    Store(s3_bucket, endpoint_url=s3_endpoint).put("a/b", b"12")
    with FaultyProxy(s3_endpoint, seed=1, share=1.0, kinds=[kind]) as proxy:
        store = Store(s3_bucket, endpoint_url=proxy.url)
        begun = time.monotonic()
        with pytest.raises(StoreError, match=r"can't read a/b: "):
            store.get("a/b")
        assert time.monotonic() - begun < 60
        with pytest.raises(StoreError, match=r"can't write a/b: "):
            store.put("a/b", b"3")
    assert proxy.injected[kind] >= 2


def test_credentials_are_in_no_message(
    s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with pytest.raises(StoreError) as refused:
        Store(s3_bucket, endpoint_url=s3_endpoint).put("a", b"")
    assert "hunter2" not in str(refused.value)


def test_a_digest_tells_contents_of_one_size_apart(store: Store) -> None:
    store.put("a", b"1.0")
    first = store.digest("a")
    assert store.digest("a") == first
    store.put("a", b"2.0")
    assert store.digest("a") != first
    with pytest.raises(NotFound):
        store.digest("b")


def test_a_swap_is_of_what_was_expected_only(store: Store) -> None:
    assert store.swap("a/lease", None, b"one")
    assert not store.swap("a/lease", None, b"two")
    assert not store.swap("a/lease", b"other", b"two")
    assert store.swap("a/lease", b"one", b"two")
    assert store.get("a/lease") == b"two"
    assert store.list("a") == ["a/lease"]  # what it takes to do it is no object
    store.delete("a/lease")
    assert not store.swap("a/lease", b"two", b"three")
    assert store.list("a") == []
