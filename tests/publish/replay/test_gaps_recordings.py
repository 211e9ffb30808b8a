"""Gaps in recordings: dropped frames, lost connections, restarts, recordings that overlap."""

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ingest.instruments import BINANCE, HYPERLIQUID, instrument_by_name
from ingest.recording import RecordingHeader
from ingest.untraded import NOTICED_NS
from publish.replay.importing import ImportOptions
from tests.end_to_end.recordings import lines_of, recording
from tests.publish.replay.archives import gzipped, imported, rows_of

START_MS = 1_704_067_200_000
MS = 1_000_000
BTC, ETH = "perpetual-BTC-USDT:USDT", "perpetual-ETH-USDT:USDT"
BOTH = "binance/usdm_ws_btcusdt_20240718.gz", "binance/usdm_ws_btcusdt_20240719.gz"
Line = tuple[int, bytes]
"""Arrival (ms from `START_MS`) and frame; an empty one: the connection was lost."""
LOST: Line = (0, b"")


def trade(at: int, id_: int, native: str = "BTCUSDT") -> Line:
    ms = START_MS + at
    return at, (
        b'{"stream":"x@trade","data":{"e":"trade","E":%d,"T":%d,"s":"%b","t":%d,"p":"100.5",'
        b'"q":"1","X":"MARKET","m":true}}'
    ) % (ms, ms, native.encode(), id_)


def aggregate(at: int, number: int, first: int, last: int) -> Line:
    ms = START_MS + at
    return at, (
        b'{"stream":"x@aggTrade","data":{"e":"aggTrade","E":%d,"T":%d,"s":"BTCUSDT","a":%d,'
        b'"f":%d,"l":%d,"p":"100.5","q":"1","m":true}}'
    ) % (ms, ms, number, first, last)


def quote(at: int, native: str = "BTCUSDT") -> Line:
    ms = START_MS + at
    return at, (
        b'{"stream":"x@bookTicker","data":{"e":"bookTicker","u":%d,"E":%d,"T":%d,"s":"%b",'
        b'"b":"1","B":"2","a":"3","A":"4"}}'
    ) % (at, ms, ms, native.encode())


def fill(at: int, id_: int) -> Line:
    return at, (
        b'{"channel":"trades","data":[{"coin":"BTC","side":"B","px":"1","sz":"2","time":%d,'
        b'"hash":"0x","tid":%d}]}'
    ) % (START_MS + at, id_)


def raw_lines(path: Path, lines: Iterable[Line]) -> str:
    """As Tardis has them."""
    text = []
    for at, frame in lines:
        second, ms = divmod(START_MS + at, 1_000)
        stamp = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03}0000Z "
        text.append((stamp.encode() if frame else b"") + frame + b"\n")
    return gzipped(path, b"".join(text))


def gaps_of(directory: Path, *paths: str, exchange: str = BINANCE) -> list[dict[str, Any]]:
    found, store = imported(directory, *paths, options=ImportOptions(exchange=exchange))
    return rows_of(store, found, "gaps").to_pylist()


def short(gap: dict[str, Any]) -> tuple[Any, ...]:
    return gap["symbol"], gap["first_missing"], gap["last_missing"], gap["reason"]


def test_what_is_dropped_of_real_frames_is_exactly_what_is_missing(tmp_path: Path) -> None:
    """Both files have 10,701 consecutive ids. Ten are dropped in one, and those at its end."""
    whole = [str(recording(name)) for name in BOTH]
    assert gaps_of(tmp_path / "whole", *whole) == []
    lines = [lines_of(Path(path)) for path in whole]
    of_line = re.compile(rb'"e":"trade".*?"t":(\d+)')
    ids = [[found and int(found[1]) for found in map(of_line.search, some)] for some in lines]
    first, second = ([n for n in some if n] for some in ids)
    dropped = {*first[300:310], *first[-7:], *second[:2], second[5_000]}
    paths = [
        gzipped(
            tmp_path / f"{number}.gz",
            b"".join(line for line, n in zip(some, mine, strict=True) if n not in dropped),
        )
        for number, (some, mine) in enumerate(zip(lines, ids, strict=True))
    ]
    assert list(map(short, gaps_of(tmp_path, *paths))) == [
        (BTC, first[300], first[309], "sequence"),
        (BTC, first[-7], second[1], "sequence"),
        (BTC, second[5_000], second[5_000], "sequence"),
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_lost_connection_is_the_reason(processes: int, tmp_path: Path) -> None:
    lines = [trade(n, n) for n in range(1, 100)]
    lines[70:80] = [LOST, *lines[73:80]]
    lines[20:24] = []
    path = raw_lines(tmp_path / "raw.gz", lines)
    options = ImportOptions(exchange=BINANCE, processes=processes)
    found, store = imported(tmp_path, path, options=options)
    rows = rows_of(store, found, "gaps").to_pylist()
    assert list(map(short, rows)) == [
        (BTC, 21, 24, "sequence"),
        (BTC, 71, 73, "disconnect"),
    ]
    assert rows[1]["exchange_ts"] == (START_MS + 70) * MS
    assert rows[1]["local_ts"] == (START_MS + 74) * MS
    assert found[0].gaps == {"sequence": (1, 4), "disconnect": (1, 3)}


def test_a_lost_connection_that_cost_nothing_is_no_gap(tmp_path: Path) -> None:
    lines = [trade(n, n) for n in range(1, 100)]
    lines.insert(50, LOST)
    assert gaps_of(tmp_path, raw_lines(tmp_path / "raw.gz", lines)) == []


@pytest.mark.parametrize("quoted", [True, False])
def test_what_a_symbol_without_trades_lost_is_unknown(quoted: bool, tmp_path: Path) -> None:
    """Whether or not its quotes had shown that it was there."""
    lines = [trade(n, n) for n in range(60_000, 60_050)]
    if quoted:
        lines.insert(10, quote(60_010, "ETHUSDT"))
    lines += [LOST, trade(61_000, 60_050), trade(61_001, 7, "ETHUSDT"), trade(61_002, 8, "ETHUSDT")]
    [gap] = gaps_of(tmp_path, raw_lines(tmp_path / "raw.gz", lines))
    assert short(gap) == (ETH, None, None, "disconnect")
    assert (gap["kind"], gap["missing"]) == ("fills", None)
    # A connection may have been dead a while before that was noticed.
    assert gap["exchange_ts"] <= (START_MS + 60_049) * MS - NOTICED_NS
    assert gap["exchange_ts"] >= (START_MS + 60_000) * MS - NOTICED_NS
    assert gap["local_ts"] == (START_MS + 61_001) * MS


def test_aggregates_are_known_by_their_numbers(tmp_path: Path) -> None:
    lines = [aggregate(n, n, 3 * n, 3 * n + 1) for n in range(1, 100)]
    del lines[50:52]
    [gap] = gaps_of(tmp_path, raw_lines(tmp_path / "raw.gz", lines))
    assert short(gap) == (BTC, 3 * 50 + 2, 3 * 53 - 1, "sequence")


def test_hyperliquids_backlog_shows_what_was_lost(tmp_path: Path) -> None:
    """Ids say nothing, the fills that are replayed after a lost connection do."""
    seen = [fill(n, 1_000 - n) for n in range(1, 40)]
    overlapping = [*seen, LOST, fill(39, 1_000 - 39), fill(50, 5)]
    path = raw_lines(tmp_path / "a.gz", overlapping)
    assert gaps_of(tmp_path / "a", path, exchange=HYPERLIQUID) == []
    path = raw_lines(tmp_path / "b.gz", [*seen, LOST, fill(50, 5), fill(51, 6)])
    [gap] = gaps_of(tmp_path / "b", path, exchange=HYPERLIQUID)
    assert (gap["kind"], gap["reason"], gap["missing"]) == ("fills", "disconnect", None)
    assert gap["exchange_ts"] == (START_MS + 39) * MS


def test_recordings_that_overlap_fill_each_others_holes(tmp_path: Path) -> None:
    lines = [trade(n, n) for n in range(1, 200)]
    one = raw_lines(tmp_path / "one.gz", [*lines[:40], *lines[50:120]])
    two = raw_lines(tmp_path / "two.gz", [*lines[30:45], *lines[48:]])
    [gap] = gaps_of(tmp_path, one, two)
    assert short(gap) == (BTC, 46, 48, "sequence")


def own(path: Path, lines: Iterable[Line], *sessions: tuple[int, str]) -> str:
    """One of our recordings; `sessions` begin at (ms, id) and cover BTC and ETH."""
    known = [instrument_by_name(BINANCE, native) for native in ("BTCUSDT", "ETHUSDT")]
    header = RecordingHeader(BINANCE, "", 0, tuple(of for of in known if of is not None))
    frames = [(START_MS * MS + at * MS, frame) for at, frame in lines]
    for at, session in sessions:
        since = START_MS * MS + at * MS
        frames.append((since, replace(header, session=session, local_from=since).encode()))
    in_order = sorted(frames, key=lambda of: of[0])
    return gzipped(path, b"".join(b"%d %b\n" % of for of in in_order))


def test_own_recordings_tell_restarts_and_what_they_cover(tmp_path: Path) -> None:
    """A new file of the same session is no restart."""
    first = [trade(n, n) for n in range(10, 40)]
    second = [trade(n, n) for n in range(43, 80)]
    third = [*(trade(n, n) for n in range(85, 90)), trade(90, 7, "ETHUSDT")]
    paths = [
        own(tmp_path / "1.gz", first, (0, "a")),
        own(tmp_path / "2.gz", second, (42, "a")),
        own(tmp_path / "3.gz", third, (84, "b")),
    ]
    gaps = sorted(gaps_of(tmp_path, *paths), key=lambda gap: gap["local_ts"])
    assert list(map(short, gaps)) == [
        (BTC, 40, 42, "sequence"),
        (BTC, 80, 84, "restart"),
        (ETH, None, None, "restart"),
    ]


def test_redundant_recordings_are_no_restarts(tmp_path: Path) -> None:
    one = own(tmp_path / "1.gz", [trade(n, n) for n in range(10, 80)], (0, "a"))
    lines = [*(trade(n, n) for n in range(50, 100)), trade(100, 7, "ETHUSDT")]
    two = own(tmp_path / "2.gz", lines, (45, "b"))
    assert gaps_of(tmp_path, one, two) == []
