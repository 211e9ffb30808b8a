"""Signed URLs of local files: who may read, for how long, and which bytes."""

from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from publish.signing import LocalSigner
from tests.publish.serving import BASE, Api

KEY = "metrics/ohlcv/exchange=e/symbol=a%2Fb:c%2A/data.parquet"
CONTENT = bytes(range(256)) * 16


@pytest.fixture
def api(tmp_path: Path) -> Api:
    return Api(tmp_path)


@pytest.fixture
def url(api: Api) -> str:
    api.store.put(KEY, CONTENT)
    return signer(api).sign(KEY, "ohlcv", 300, BASE)


def signer(api: Api, template: str | None = None) -> LocalSigner:
    return LocalSigner(template, api.keys.signing_secret, api.clock)


async def test_the_whole_file_without_a_key(api: Api, url: str) -> None:
    answer = await api.http.get(url)
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    head = await api.http.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(CONTENT))


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=4000-", 4000, 4096),
        ("bytes=4000-99999", 4000, 4096),
        ("bytes=-8", 4088, 4096),
        ("bytes=-99999", 0, 4096),
    ],
)
async def test_a_range(api: Api, url: str, asked: str, start: int, end: int) -> None:
    answer = await api.http.get(url, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/4096"


@pytest.mark.parametrize("asked", ["bytes=4096-", "bytes=9999-99999", "bytes=-0"])
async def test_a_range_outside_is_416(api: Api, url: str, asked: str) -> None:
    answer = await api.http.get(url, headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == "bytes */4096"


@pytest.mark.parametrize(
    "asked", ["bytes=5-4", "bytes=0-1,5-6", "lines=0-1", "bytes=-", "bytes=a-b", "bytes=１-２"]
)
async def test_what_is_no_single_range_gets_the_whole(api: Api, url: str, asked: str) -> None:
    answer = await api.http.get(url, headers={b"Range": asked.encode()})
    assert answer.status_code == 200
    assert answer.content == CONTENT


async def test_a_range_of_a_file_that_changed_gets_the_whole(api: Api, url: str) -> None:
    etag = (await api.http.head(url)).headers["ETag"]
    headers = {"Range": "bytes=0-9", "If-Range": etag}
    assert (await api.http.get(url, headers=headers)).status_code == 206
    api.store.put(KEY, b"new content")
    answer = await api.http.get(url, headers=headers)
    assert (answer.status_code, answer.content) == (200, b"new content")


async def test_a_file_that_is_replaced_while_it_is_read_stays_what_it_was(
    api: Api, url: str
) -> None:
    from publish.api import files

    path = api.store.path(KEY)
    assert path is not None
    source = files._open(path)
    answer = files._answer({}, "GET", source)
    api.store.put(KEY, b"short")
    body = b"".join([chunk async for chunk in answer.body_iterator])
    assert body == CONTENT
    assert source.closed


async def test_expiry(api: Api, url: str) -> None:
    api.clock.now += 299
    assert (await api.http.get(url)).status_code == 200
    api.clock.now += 1
    answer = await api.http.get(url)
    assert (answer.status_code, answer.json()["code"]) == (403, "url_refused")


async def test_altered_and_forged_urls(api: Api, url: str) -> None:
    expires, signature = httpx.URL(url).params.values()
    later = str(int(expires) + 1)
    forged = LocalSigner(None, lambda: b"x" * 32, api.clock).sign(KEY, "ohlcv", 300, BASE)
    upper = signature.upper() if signature.upper() != signature else signature[::-1]
    path = url.partition("?")[0]
    for wrong in (
        path,
        f"{path}?expires={expires}",
        f"{path}?signature={signature}",
        f"{path}?expires={later}&signature={signature}",
        f"{path}?expires=+{expires}&signature={signature}",
        f"{path}?expires=%20{expires}&signature={signature}",
        f"{path}?expires={expires}&signature={upper}",
        f"{path}?expires={expires}&signature={signature[:-1]}",
        f"{path}?expires={expires}&signature=ключ",
        f"{path}?expires={expires}&signature=%FF",
        f"{path}?expires=never&signature={signature}",
        url.replace("data.parquet", "date.parquet"),
        url.replace("/files/", "/files//"),
        forged,
    ):
        assert (await api.http.get(wrong)).status_code == 403, wrong


@pytest.mark.parametrize(
    "key",
    [
        "../keys.json",
        "metrics/../../keys.json",
        "..%2F..%2Fkeys.json",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "metrics/%00",
        "metrics/\udc80",
        "",
    ],
)
async def test_paths_that_lead_elsewhere_are_not_signed(api: Api, url: str, key: str) -> None:
    query = url.partition("?")[2]
    for path in (key, quote(key, safe="", errors="surrogateescape")):
        raw = f"{BASE}/files/{path}".encode(errors="surrogateescape").decode("latin-1")
        answer = await api.http.get(f"{raw}?{query}")
        assert answer.status_code in (403, 404)
        assert "signing_secret" not in answer.text


async def test_a_file_that_is_gone(api: Api, url: str) -> None:
    api.store.delete(KEY)
    answer = await api.http.get(url)
    assert (answer.status_code, answer.json()["code"]) == (404, "file_gone")


def test_the_host_may_be_each_familys_own(api: Api) -> None:
    url = signer(api, "https://{family}.data.example/").sign(KEY, "trade-metrics", 300, BASE)
    assert url.startswith("https://trade-metrics.data.example/files/metrics/")
