"""Recordings as feeds, and recordings of simulated spans."""

import gzip
from collections import Counter
from math import inf
from pathlib import Path

import pytest

from ingest.batches import Universe
from ingest.recording import ReadReport, RecordingError, read_frames
from ingest.simulator import EXCHANGES, Simulator, record_span, recording_feed
from ingest.simulator.feeds import stream_key
from ingest.simulator.listings import BINANCE, DEFAULT_NATIVES, HYPERLIQUID, OKX
from ingest.ticks import BACKLOG
from ingest.venues import Frame, ParseReport, ParserState, Row, venue
from ingest.venues.common import TRADE_ROW
from tests.ingest.simulating import START, Client, eventually

DATA = Path(__file__).parents[4] / "shared" / "data"


def recorded(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no recording {name} in ../shared/data")
    return path


def read(path: Path) -> tuple[list[Frame], ReadReport]:
    report = ReadReport()
    return [(ns, payload) for _, ns, payload in read_frames(path, report)], report


# -- spans


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_span_is_a_whole_recording_that_parses(exchange: str, tmp_path: Path) -> None:
    path = tmp_path / "span.gz"
    count = record_span(path, exchange, seed=3, start_ns=START, seconds=600)
    frames, found = read(path)
    assert (len(frames), found.problems, found.bad_lines) == (count, [], 0)
    header = found.headers[0][1]
    assert (header.exchange, header.local_from) == (exchange, START)
    assert tuple(i.native for i in header.instruments) == DEFAULT_NATIVES[exchange]
    stamps = [ns for ns, _ in frames]
    assert stamps == sorted(stamps)
    assert stamps[0] >= START
    trades: list[Row] = []
    quotes: list[Row] = []
    report = ParseReport()
    routes = Universe(header.instruments).routes([trades], [quotes])
    venue(exchange).parse(frames, routes, 0, report, ParserState())
    assert (report.malformed, report.unknown, report.ignored) == (Counter(), Counter(), 0)
    assert report.trades > 500
    assert report.quotes > 1_000
    rows = [TRADE_ROW.unpack(row) for row in trades]
    assert all(row[2] >= row[1] * 1_000_000 for row in rows)
    backlog = Counter(row[0] for row in rows if row[8] == BACKLOG)
    assert all(0 < n <= 30 for n in backlog.values())
    assert len(backlog) == (4 if exchange == HYPERLIQUID else 0)


def test_a_span_is_seeded(tmp_path: Path) -> None:
    spans = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        record_span(tmp_path / name, OKX, seed=seed, start_ns=START, seconds=120)
        spans.append(read(tmp_path / name)[0])
    assert spans[0] == spans[1] != spans[2]


def test_a_span_has_one_channel_of_trades(tmp_path: Path) -> None:
    for trades, other in (("trade", "aggTrade"), ("aggTrade", "trade")):
        path = tmp_path / trades
        record_span(path, BINANCE, seed=3, start_ns=START, seconds=60, trades=trades)
        keys = {stream_key(BINANCE, frame) for _, frame in read(path)[0]}
        assert f"btcusdt@{trades}" in keys
        assert f"btcusdt@{other}" not in keys


@pytest.mark.parametrize(
    ("exchange", "natives", "message"),
    [("mtgox", None, "unknown exchange 'mtgox'"), (OKX, ["BTC"], "no simulated instrument 'BTC'")],
)
def test_a_span_of_the_unknown_is_refused(
    exchange: str, natives: list[str] | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        record_span(tmp_path / "x", exchange, seed=1, start_ns=START, seconds=1, natives=natives)
    assert not (tmp_path / "x").exists()


# -- recordings


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_an_own_recording_is_served_frame_by_frame(exchange: str, tmp_path: Path) -> None:
    path = tmp_path / "span.gz"
    record_span(path, exchange, seed=3, start_ns=START, seconds=60)
    feed = recording_feed(exchange, [path])
    keys = sorted(feed.keys)
    expected = [payload for _, payload in read(path)[0] if stream_key(exchange, payload)]
    paths = {
        BINANCE: ("/public/stream",),
        HYPERLIQUID: ("/ws",),
        OKX: ("/ws/v5/public", "/ws/v5/business"),
    }[exchange]
    async with Simulator({exchange: feed}, speed=inf, streams=len(keys)) as simulator:
        clients = [await Client(simulator, exchange, keys, at).__aenter__() for at in paths]
        await eventually(lambda: sum(len(c.pushes) for c in clients) >= len(expected))
        for client, at in zip(clients, paths, strict=True):
            own = expected
            if exchange == OKX:
                own = [f for f in expected if (b'"trades-all"' in f) == at.endswith("business")]
            assert client.pushes == own
            await client.abort()


async def test_a_recording_of_another_recorder_with_nanoseconds() -> None:
    pair = [recorded(f"binance/usdm_ws_{s}_20240718.gz") for s in ("btcusdt", "ethusdt")]
    feed = recording_feed(BINANCE, pair)
    assert {key for key in feed.keys if "@depth" not in key} == {
        *("btcusdt@trade", "btcusdt@bookTicker", "ethusdt@trade", "ethusdt@bookTicker")
    }
    assert feed.origin == min(read(path)[0][0][0] for path in pair)
    keys = ["btcusdt@trade", "ethusdt@trade"]
    async with (
        Simulator({BINANCE: feed}, speed=inf, streams=2) as simulator,
        Client(simulator, BINANCE, keys) as client,
    ):
        await client.received(974 + 1640)
        await eventually(simulator.finished.is_set)
        for key, path in zip(keys, pair, strict=True):
            mark = f'{{"stream":"{key}"'.encode()
            own = [payload for _, payload in read(path)[0] if payload.startswith(mark)]
            assert [push for push in client.pushes if push.startswith(mark)] == own


def test_a_recording_with_microseconds_keeps_its_pace() -> None:
    feed = recording_feed(BINANCE, [recorded("binance/usdm_ws_btcusdt_20230404.dat.gz")])
    events = [event for chunk in feed.chunks for event in chunk]
    assert 1_680_652_000 < feed.origin / 1e9 < 1_680_653_000
    assert 90 < (events[-1][0] - events[0][0]) / 1e9 < 110


async def test_hyperliquids_own_backlog_frame_is_the_first_of_its_recording() -> None:
    path = recorded("hyperliquid/ws_raw_btc_20250126.gz")
    feed = recording_feed(HYPERLIQUID, [path])
    assert feed.keys == {"trades:BTC", "l2Book:BTC"}
    trades = [payload for _, payload in read(path)[0] if payload.startswith(b'{"channel":"trades')]
    async with (
        Simulator({HYPERLIQUID: feed}, speed=inf, streams=1) as simulator,
        Client(simulator, HYPERLIQUID, ["trades:BTC"]) as client,
    ):
        await client.received(9)
        await eventually(simulator.finished.is_set)
        assert client.pushes == trades


async def test_recordings_run_at_the_pace_of_their_stamps(tmp_path: Path) -> None:
    frame = '{"stream":"btcusdt@trade","data":{"e":"trade","t":%d}}'
    lines = [f"{START + n * 100_000_000} {frame % n}\n" for n in range(100)]
    path = tmp_path / "slow"
    path.write_text("".join(lines))
    feed = recording_feed(BINANCE, [path])
    async with (
        Simulator({BINANCE: feed}, speed=20, streams=1) as simulator,
        Client(simulator, BINANCE, ["btcusdt@trade"]) as client,
    ):
        await client.received(20)
        assert 1.8e9 <= simulator.market_ns - START <= 9.9e9  # not all at once


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't read the recording .*x"),
        (b"", "x is no frame recording"),
        (b"<html>\n", "x is no frame recording"),
        (gzip.compress(b'1790000000000000000 {"result":null,"id":1}\n'), "no frame of a okx-perps"),
    ],
    ids=["missing", "empty", "html", "no stream"],
)
def test_what_is_no_recording_is_refused(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(RecordingError, match=message):
        recording_feed(OKX, [tmp_path / "x"])


@pytest.mark.parametrize(
    ("exchange", "frame", "key"),
    [
        (BINANCE, b'{"stream":"btcusdt@depth@0ms","data":{}}', "btcusdt@depth@0ms"),
        (BINANCE, b'{"data":{},"stream":"btcusdt@trade"}', "btcusdt@trade"),
        (BINANCE, b'{"result":null,"id":1}', None),
        (BINANCE, b'{"lastUpdateId":1}', None),
        (OKX, b'{"arg":{"channel":"trades","instId":"A-B-SWAP"},"data":[]}', "trades:A-B-SWAP"),
        (OKX, b'{"event":"subscribe","arg":{"channel":"trades","instId":"A-B-SWAP"}}', None),
        (OKX, b"pong", None),
        (HYPERLIQUID, b'{"channel":"trades","data":[{"coin":"xyz:TSLA"}]}', "trades:xyz:TSLA"),
        (HYPERLIQUID, b'{"channel":"bbo","data":{"coin":"BTC"}}', "bbo:BTC"),
        (HYPERLIQUID, b'{"channel":"trades","data":[]}', None),
        (HYPERLIQUID, b'{"channel":"error","data":"no"}', None),
        (HYPERLIQUID, b'{"channel":"pong"}', None),
        (HYPERLIQUID, b"Websocket connection established.", None),
        (HYPERLIQUID, b"[]", None),
    ],
)
def test_the_stream_of_a_frame(exchange: str, frame: bytes, key: str | None) -> None:
    assert stream_key(exchange, frame) == key
