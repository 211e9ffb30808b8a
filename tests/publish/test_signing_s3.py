"""Presigned URLs on a real S3 server, which enforces signature and expiry."""

import time
from pathlib import Path

import httpx
import pytest

from publish.signing import S3Signer
from publish.store import Store, StoreError

KEY = "metrics/ohlcv/exchange=e/symbol=perpetual-%2A%E5%B8%81:U/data.parquet"
CONTENT = bytes(range(200))


@pytest.fixture
def store(s3_bucket: str, s3_endpoint: str) -> Store:
    store = Store(f"{s3_bucket}/prefix", endpoint_url=s3_endpoint)
    store.put(KEY, CONTENT)
    return store


def test_reading_whole_and_a_range(store: Store) -> None:
    url = S3Signer(store, None).sign(KEY, "ohlcv", 300, "")
    assert "X-Amz-Expires=300" in url
    assert httpx.get(url).content == CONTENT
    answer = httpx.get(url, headers={"Range": "bytes=10-19"})
    assert (answer.status_code, answer.content) == (206, CONTENT[10:20])


def test_altered_urls_and_other_methods_are_refused(store: Store) -> None:
    store.put("metrics/other", b"1")
    url = S3Signer(store, None).sign(KEY, "ohlcv", 300, "")
    path, query = url.split("?")
    for wrong in (
        path,
        url.replace("X-Amz-Expires=300", "X-Amz-Expires=3000"),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        f"{path.rpartition('/metrics/')[0]}/metrics/other?{query}",
    ):
        assert httpx.get(wrong).status_code == 403, wrong
    assert httpx.put(url, content=b"mine").status_code == 403
    assert httpx.delete(url).status_code == 403
    assert store.get(KEY) == CONTENT


def test_expiry(store: Store) -> None:
    signer = S3Signer(store, None)
    url = signer.sign(KEY, "ohlcv", 1, "")
    deadline = time.monotonic() + 20
    while httpx.get(url).status_code == 200:
        assert time.monotonic() < deadline, "the URL does not expire"
        time.sleep(0.1)
    assert httpx.get(url).status_code == 403
    assert httpx.get(signer.sign(KEY, "ohlcv", 300, "")).status_code == 200


def test_the_host_is_each_familys_own_and_is_signed(store: Store, s3_endpoint: str) -> None:
    """As behind a proxy that leaves the Host header: the request goes to the server itself."""
    url = httpx.URL(S3Signer(store, "http://{family}.example.test").sign(KEY, "raw", 300, ""))
    assert url.host == "raw.example.test"
    server = httpx.URL(s3_endpoint)
    there = url.copy_with(host=server.host, port=server.port)
    assert httpx.get(there, headers={"Host": "raw.example.test"}).content == CONTENT
    assert httpx.get(there, headers={"Host": "ohlcv.example.test"}).status_code == 403
    assert httpx.get(there).status_code == 403


@pytest.mark.parametrize(
    ("region", "bucket", "endpoint", "start"),
    [
        ("us-east-1", "abc", None, "https://abc.s3.amazonaws.com/"),
        ("eu-central-1", "abc", None, "https://abc.s3.eu-central-1.amazonaws.com/"),
        ("eu-central-1", "a.b.c", None, "https://s3.eu-central-1.amazonaws.com/a.b.c/"),
        ("cn-north-1", "abc", None, "https://abc.s3.cn-north-1.amazonaws.com.cn/"),
        ("eu-central-1", "abc", "http://127.0.0.1:8333", "http://127.0.0.1:8333/abc/"),
    ],
)
def test_where_a_bucket_is(
    monkeypatch: pytest.MonkeyPatch, region: str, bucket: str, endpoint: str | None, start: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    store = Store(f"s3://{bucket}/some/prefix", endpoint_url=endpoint)
    url = S3Signer(store, None).sign("a=b/c%25", "ohlcv", 300, "")
    assert url.startswith(f"{start}some/prefix/a%3Db/c%2525?")
    assert f"%2F{region}%2Fs3%2F" in url
    assert "X-Amz-Security-Token=token" in url


def test_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="s3://bucket: there are no AWS credentials"):
        S3Signer(Store("s3://bucket"), None).sign("key", "ohlcv", 300, "")
