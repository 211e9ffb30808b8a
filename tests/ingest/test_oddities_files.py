"""Every file of ../shared/data: what its payloads come to, or the name under which it is refused.

A file that is not in these tables fails the test that lists them. Counts are the manifest's.
"""

import gzip
import re
from collections import Counter
from pathlib import Path

import orjson
import pytest

from ingest.gaps import Gap
from ingest.history import BadAnswer, walk
from ingest.instruments import BINANCE, HYPERLIQUID, OKX, listed_from
from ingest.recording import RecordingError, read_frames
from ingest.venues import Frame, ParseReport, ParserState, venue
from tests.ingest.parsing import (
    ARRIVAL,
    DATA,
    cryptofeed_frames,
    fixture_messages,
    instrument,
    parse_frames,
    recorded,
)

EXCHANGES = {"binance": BINANCE, "okx": OKX, "hyperliquid": HYPERLIQUID}
NO_TIME = "bookTicker without E"  # the spot market's

# Websocket frames: trades, quotes, frames of channels that are not collected, malformed by name,
# answers by kind.
FRAMES: dict[str, tuple[int, int, int, dict[str, int], dict[str, int]]] = {
    "binance/spot_ws_btcusdt_20240808.gz": (9757, 0, 3452, {NO_TIME: 28040}, {}),
    "binance/spot_ws_btcusdt_20240809.gz": (10147, 0, 3044, {NO_TIME: 45134}, {}),
    "binance/tardis_fixture_messages.jsonl": (4, 1, 10, {}, {}),
    "binance/usdm_cryptofeed_20210417.ws.gz": (185, 1959, 1115, {}, {}),
    "binance/usdm_ws_btcusdt_20230404.dat.gz": (2197, 6765, 4422, {}, {}),
    "binance/usdm_ws_btcusdt_20230405.dat.gz": (10738, 37440, 12203, {}, {}),
    "binance/usdm_ws_btcusdt_20240718.gz": (974, 7113, 3327, {}, {}),
    "binance/usdm_ws_btcusdt_20240719.gz": (9727, 45147, 5696, {}, {}),
    "binance/usdm_ws_ethusdt_20240718.gz": (1640, 9089, 3274, {}, {}),
    "binance/usdm_ws_ethusdt_20240719.gz": (12015, 38239, 5656, {}, {}),
    "hyperliquid/tardis_fixture_messages.jsonl": (6, 2, 4, {}, {}),
    "hyperliquid/ws_raw_btc_20250126.gz": (64, 0, 46, {}, {}),
    "hyperliquid/ws_small_frames_20260916.jsonl": (0, 1, 1, {}, {"ack": 1, "pong": 1}),
    "okx/okx_cryptofeed_20220227.ws.gz": (19, 0, 3698, {}, {"ack": 60}),
    "okx/okx_cryptofeed_20220513.ws.gz": (74, 0, 318, {}, {"ack": 18}),
    "okx/tardis_fixture_messages.jsonl": (1, 2, 21, {}, {}),
    "okx/tardis_fixture_usdc_messages.jsonl": (0, 0, 6, {}, {}),
}

# REST bodies as instrument lists: how many perpetuals, or why it is no list.
LISTS: dict[str, list[int | str]] = {
    "binance/usdm_cryptofeed_20210417.exchangeInfo.gz": [110],
    "binance/usdm_cryptofeed_20210417.http.gz": ["no list of objects 'symbols'"] * 4,
    "hyperliquid/sdk_cassettes/test_get_all_mids.yaml": ["no list of objects 'universe'"],
    "hyperliquid/sdk_cassettes/test_get_candles_snapshot.yaml": [28, "not an object"],
    "hyperliquid/sdk_cassettes/test_get_info.yaml": [28],
    "hyperliquid/sdk_cassettes/test_get_l2_snapshot.yaml": [28, "no list of objects 'universe'"],
    "okx/okx_cryptofeed_20220513.instruments.gz": [0, 166, *([0] * 4 + [166]) * 4, *[0] * 3],
    "okx/swap_BTC-USD-SWAP.json": [1],
    "okx/swap_BTC-USDT-SWAP.json": [1],
    "okx/swap_ETH-USDT-SWAP.json": [1],
    "okx/swap_USDC-USDT-SWAP.json": [1],
    "okx/swap_page.json": [3],
    "okx/swap_unknown.json": ["code '51001'"],
}

# REST bodies as pages of history: how many trades of the gap, or why it is no page.
CANDLES = (
    "okx/history-candles__after-{}_bar-1m_before-1790553539999_instId-USDC-USDT-SWAP_limit-300.json"
)
PAGES: dict[str, int | str] = {
    "okx/history-trades__after-3031607_instId-USDC-USDT-SWAP_limit-3_type-1.json": 3,
    CANDLES.format(1790567940000): "history-trades with TypeError",
    CANDLES.format(1790585940000): "history-trades with TypeError",
    CANDLES.format(1790603940000): "history-trades with TypeError",
    "okx/history-candles__bar-1m_instId-BTC-USDT-SWAP_limit-3.json": "with TypeError",
    "okx/history-candles__bar-2s_instId-BTC-USDT-SWAP_limit-1.json": "Parameter bar error",
    "okx/funding-rate-history__instId-BTC-USDT-SWAP_limit-400.json": "KeyError('side')",
    "okx/throttled__market-data-history__begin-1679068800000_dateAggrType-daily_end-1679241600000"
    "_instFamilyList-USDC-USDT_instType-SWAP_module-1.json": "Too Many Requests",
}

# No payloads of a socket or of REST, but what others made of them (archives, CSV): no recording.
REFUSED = (
    "binance/spot_klines_BTCUSDT-5m-2024-08.csv.gz",
    "binance/usdm_trxusdt_merged_20250414.csv.gz",
    *(f"hyperliquid/20250903_{k}_{c}.csv.gz" for k in ("orderbooks", "prices", "trades")
      for c in ("BTC", "ETH")),
    *(f"hyperliquid/20250904_{k}_{c}.csv.gz" for k in ("orderbooks", "prices", "trades")
      for c in ("BTC", "SOL", "WLFI")),
    "okx/AEON-USDT-SWAP-L2orderbook-400lv-2026-08-31.tar.gz",
    *(f"okx/USDC-USDT-SWAP-trades-2026-09-{day}.zip" for day in (26, 27, 28)),
    "okx/kanso_provenance.json",
)  # fmt: skip


def test_every_file_is_in_a_table() -> None:
    recorded("MANIFEST.md")
    files = {str(p.relative_to(DATA)) for p in DATA.rglob("*") if p.is_file()} - {"MANIFEST.md"}
    assert files == {*FRAMES, *LISTS, *PAGES, *REFUSED}


def frames_of(name: str) -> list[Frame]:
    if "tardis" in name:
        return [(ARRIVAL, message) for message in fixture_messages(name)]
    if name.endswith(".jsonl"):
        return [(ARRIVAL, line) for line in recorded(name).read_bytes().splitlines()]
    if "cryptofeed" in name:
        return list(cryptofeed_frames(name))
    return [(ns, payload) for _, ns, payload in read_frames(recorded(name))]


@pytest.mark.parametrize("name", FRAMES)
def test_frames(name: str) -> None:
    exchange, frames = EXCHANGES[name.split("/")[0]], frames_of(name)
    report = ParseReport()
    venue(exchange).parse(frames, {}, 0, report, ParserState())
    instruments = [instrument(exchange, native) for native in report.unknown]
    if instruments:
        report = parse_frames(instruments, frames).report
    answers = dict(Counter(notice.kind for notice in report.notices))
    found = report.trades, report.quotes, report.ignored, dict(report.malformed), answers
    assert found == FRAMES[name]
    assert not report.unknown
    assert report.frames == len(frames)


def bodies_of(name: str) -> list[bytes]:
    path = recorded(name)
    if name.endswith(".yaml"):
        found = re.findall(r"      string: '(.*?)'\n    headers", path.read_text(), re.DOTALL)
        return [re.sub(r"\n\s+", " ", body).encode() for body in found]
    if name.endswith(".gz"):
        lines = gzip.decompress(path.read_bytes()).splitlines()
        return [line.partition(b": ")[2] for line in lines if b" -> " in line[:200]]
    return [path.read_bytes()]


@pytest.mark.parametrize("name", LISTS)
def test_instrument_lists(name: str) -> None:
    exchange = EXCHANGES[name.split("/")[0]]
    found: list[int | str] = []
    for body, wanted in zip(bodies_of(name), LISTS[name], strict=True):
        try:
            listed, problems = listed_from(exchange, orjson.loads(body))
            assert not problems
            found.append(len(listed))
        except ValueError as error:
            found.append(wanted if str(wanted) in str(error) else str(error))
    assert found == LISTS[name]


@pytest.mark.parametrize("name", PAGES)
def test_pages_of_history(name: str) -> None:
    ids = {"first_missing": 3_031_604, "last_missing": 3_031_606, "missing": 3}
    gap = Gap("s", "ids", **ids, reason="", exchange_ts=0, exchange_to=0, local_ts=0)
    steps, wanted = walk(OKX, "USDC-USDT-SWAP", gap), PAGES[name]
    steps.next()
    body = orjson.loads(recorded(name).read_bytes())
    if isinstance(wanted, int):
        assert [p.id for p in steps.take(body)] == [3_031_606, 3_031_605, 3_031_604]
        assert (steps.next(), steps.why()) == (None, "")
    else:
        with pytest.raises(BadAnswer, match=re.escape(wanted)):
            steps.take(body)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_recording_is_refused(name: str) -> None:
    path: Path = recorded(name)
    with pytest.raises(RecordingError, match=rf"{path.name} is no frame recording"):
        next(read_frames(path))
