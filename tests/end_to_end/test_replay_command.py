"""`perpflow replay` on damaged and wrong input: what is good is published, what is not is named."""

import gzip
import subprocess
import zlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ingest.instruments import Instrument
from ingest.recorder import RecordingFile, RecordingHeader
from tests.end_to_end.oracle import CLOCKS, Oracle
from tests.end_to_end.recordings import SeriesPath, assert_bars, lines_of, recording, series
from tests.test_cli import assert_refused, perpflow

BTC = "perpetual-BTC-USDT:USDT"
VENUE = ("--venue", "binance-futures")
FIRST_DAY = "binance/usdm_ws_btcusdt_20240718.gz"
SECOND_DAY = "binance/usdm_ws_btcusdt_20240719.gz"
OKX_TRADE = (
    b'1652459225507172000 {"arg":{"channel":"trades","instId":"UNI-USD-SWAP"},"data":'
    b'[{"instId":"UNI-USD-SWAP","tradeId":"12883020","px":"5.123","sz":"100","side":"sell",'
    b'"ts":"1652459215150"}]}\n'
)


def replay_here(
    directory: Path, *arguments: str, venue: Sequence[str] = VENUE, out: str = "file://out"
) -> "subprocess.CompletedProcess[str]":
    return perpflow("replay", *arguments, *venue, "--out", out, cwd=directory)


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """A minute and a half of real frames."""
    return lines_of(recording(FIRST_DAY))[:3000]


@pytest.fixture(scope="module")
def oracle(lines: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return oracle_of(lines, tmp_path_factory.mktemp("oracle"))


def oracle_of(lines: Sequence[bytes], directory: Path) -> Oracle:
    path = directory / "good-lines"
    path.write_bytes(b"".join(lines))
    return Oracle("binance-futures", [path])


def assert_published(out: Path, oracle: Oracle) -> None:
    """Every series of BTC is as the oracle has it."""
    for of in series("binance-futures", [BTC]):
        expected = oracle.bars(of.dataset, "BTCUSDT", of.interval, of.clock)
        assert_bars(of.read(out), expected, of)


def assert_replayed(result: "subprocess.CompletedProcess[str]", *texts: str) -> None:
    """Done, the texts are in what it printed, and no traceback."""
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    for text in texts:
        assert text in result.stdout


def test_a_truncated_gzip(lines: list[bytes], tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(lines), compresslevel=6)
    torn = whole[: len(whole) // 2]
    (tmp_path / "torn.gz").write_bytes(torn)
    readable = zlib.decompressobj(wbits=31).decompress(torn)
    good = readable[: readable.rindex(b"\n") + 1].splitlines(keepends=True)
    assert 1000 < len(good) < 2000
    result = replay_here(tmp_path, "torn.gz", "--partial")
    at = f"torn.gz:{len(good) + 1}"
    assert_replayed(result, f"{len(good):,} frames", f"{at}: truncated gzip", f"{at}: ends in half")
    assert_published(tmp_path / "out", oracle_of(good, tmp_path))


def test_a_half_written_line(lines: list[bytes], oracle: Oracle, tmp_path: Path) -> None:
    (tmp_path / "half").write_bytes(b"".join(lines) + lines[0][:100])
    result = replay_here(tmp_path, "half", "--partial")
    assert_replayed(result, "3,000 frames", "half:3001: ends in half a line")
    assert_published(tmp_path / "out", oracle)


def with_price(line: bytes, price: bytes) -> bytes:
    before, _, rest = line.partition(b'"p":"')
    return before + b'"p":' + price + rest[rest.index(b'"') + 1 :]


def without(line: bytes, field: bytes) -> bytes:
    return line.replace(b'"%b":' % field, b'"_":')


def test_malformed_lines_between_good_ones(lines: list[bytes], tmp_path: Path) -> None:
    trade = next(line for line in lines if b"@trade" in line)
    damaged = [
        trade[:80] + b"\n",
        trade[:20] + b"\xff\xfe\x00\n",
        with_price(trade, b'"x"'),
        with_price(trade, b"null"),
        with_price(trade, b'"NaN"'),
        without(trade, b"t"),
        b"no stamp, no frame\n",
        b"99 {}\n",
    ]
    good = lines[: 200 * (len(damaged) + 1)]
    mixed = good[:200]
    for n, line in enumerate(damaged, 1):
        mixed += [line, *good[200 * n : 200 * (n + 1)]]
    (tmp_path / "broken").write_bytes(b"".join(mixed))
    stamp = trade.split()[0].decode()
    assert_replayed(
        replay_here(tmp_path, "broken", "--partial"),
        f"skipped 2 malformed, not JSON; the first at {stamp}",
        f"skipped 3 malformed, trade with a bad value; the first at {stamp}",
        f"skipped 1 malformed, trade without t; the first at {stamp}",
        "broken:1407: not `<local ns> <frame>`, skipped: b'no stamp, no frame'",
        "broken:1608: ",
    )
    assert_published(tmp_path / "out", oracle_of(good, tmp_path))


def test_an_unknown_symbol_beside_a_known_one(
    lines: list[bytes], oracle: Oracle, tmp_path: Path
) -> None:
    foreign = [line.replace(b"BTCUSDT", b"FOOBAR") for line in lines[:200] if b'@trade"' in line]
    assert foreign
    (tmp_path / "mixed").write_bytes(b"".join([*foreign, *lines]))
    result = replay_here(tmp_path, "mixed", "--partial")
    assert_replayed(result, f"skipped {len(foreign)} of unknown symbol FOOBAR")
    assert_published(tmp_path / "out", oracle)


def test_nothing_but_an_unknown_symbol(lines: list[bytes], tmp_path: Path) -> None:
    foreign = [line.replace(b"BTCUSDT", b"FOOBAR") for line in lines[:200]]
    (tmp_path / "foreign").write_bytes(b"".join(foreign))
    result = replay_here(tmp_path, "foreign", "--partial")
    assert_refused(result, 1, "no trades or quotes", "unknown symbol FOOBAR", "--instruments")
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_what_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "empty.gz").write_bytes(b"")
    (tmp_path / "nothing.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "directory").mkdir()
    (tmp_path / "table.csv").write_text("time,open\n" + "1721347021080832061,5\n" * 20)
    for name, text in {
        "missing.gz": "can't read missing.gz: No such file",
        "empty.gz": "empty.gz is empty",
        "nothing.gz": "nothing.gz is empty",
        "directory": "directory is a directory that is no own archive",
        "table.csv": "table.csv is in no format that is read",
    }.items():
        assert_refused_lines(replay_here(tmp_path, name), text)
        assert not list((tmp_path / "out").rglob("*.parquet"))


def assert_refused_lines(result: "subprocess.CompletedProcess[str]", text: str) -> None:
    """Refused, and the last line of stderr, after any warnings, says why."""
    assert_refused(result, 1, text)
    assert result.stderr.splitlines()[-1].startswith(f"perpflow: {text}")


def test_one_missing_recording_of_two_publishes_nothing(lines: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"".join(lines))
    result = replay_here(tmp_path, "good", "missing.gz", "--partial")
    assert_refused_lines(result, "can't read missing.gz: No such file")
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_an_output_that_cant_be_written(lines: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"".join(lines[:100]))
    (tmp_path / "file").write_text("not a directory")
    for out in (f"file://{tmp_path}/file", f"file://{tmp_path}/file/bars"):
        result = replay_here(tmp_path, "good", "--partial", out=out)
        assert_refused_lines(result, f"{out} is not writable")
    assert (tmp_path / "file").read_text() == "not a directory"


def test_an_output_that_is_no_url(lines: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"".join(lines[:100]))
    for out in ("bars", "http://bars", "file://"):
        result = replay_here(tmp_path, "good", "--partial", out=out)
        assert_refused_lines(result, f"'{out}' is no store: use file://")
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_the_wrong_venue_of_an_own_recording(tmp_path: Path) -> None:
    swap = Instrument("okx-perps", "UNI-USD-SWAP", "perpetual-UNI-USD:UNI", 10.0, inverse=True)
    stamp, _, frame = OKX_TRADE.strip().partition(b" ")
    header = RecordingHeader("okx-perps", "1", int(stamp), (swap,))
    with RecordingFile(tmp_path / "own.gz", header) as file:
        file.write([(int(stamp), frame)])
    result = replay_here(tmp_path, "own.gz", "--partial")
    assert_refused_lines(result, "own.gz is of okx-perps, not binance-futures")
    # The recording knows its contracts: 100 of 10 USD each.
    result = replay_here(tmp_path, "own.gz", "--partial", venue=("--venue", "okx-perps"))
    assert_replayed(result, "1 frames: 1 trades")
    of = SeriesPath("ohlcv", "okx-perps", "perpetual-UNI-USD:UNI", "1m", "exchange")
    [bar] = of.read(tmp_path / "out").to_pylist()
    assert (bar["volume_notional"], bar["volume"]) == (1000.0, 1000.0 / 5.123)


def test_the_wrong_venue_of_other_recordings(lines: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"".join(lines[:100]))
    for exchange in ("okx-perps", "hyperliquid-perps"):
        result = replay_here(tmp_path, "good", "--partial", venue=("--venue", exchange))
        assert_refused_lines(result, f"no trades or quotes of {exchange} in 100 frames")


def test_okx_without_contract_sizes(tmp_path: Path) -> None:
    (tmp_path / "okx").write_bytes(OKX_TRADE)
    okx = ("--venue", "okx-perps")
    result = replay_here(tmp_path, "okx", "--partial", venue=okx)
    assert_refused(result, 1, "unknown symbol UNI-USD-SWAP", "contract sizes", "--instruments")
    (tmp_path / "broken.json").write_text("{")
    for name in ("missing.json", "broken.json"):
        result = replay_here(tmp_path, "okx", "--partial", "--instruments", name, venue=okx)
        assert_refused(result, 1, name)


def test_days_that_are_there_are_replaced_only_when_forced(tmp_path: Path) -> None:
    """The first recording ends after midnight by the exchange's clock, which is ahead of its own:
    so on that clock both recordings have rows of the 19th."""
    first, second = recording(FIRST_DAY), tmp_path / "second"
    second.write_bytes(b"".join(lines_of(recording(SECOND_DAY))[:6000]))
    out = tmp_path / "out"
    assert_replayed(replay_here(tmp_path, str(first), "--partial"))
    before = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    result = replay_here(tmp_path, str(second), "--partial")
    assert_refused_lines(result, "file://out already holds")
    assert "2024-07-19: pass --force to replace them" in result.stderr
    assert {path: path.read_bytes() for path in out.rglob("*.parquet")} == before

    result = replay_here(tmp_path, str(second), "--partial", "--force")
    assert_replayed(result, "other days of these months stay as they are")
    alone = {path: Oracle("binance-futures", [path]) for path in (first, second)}
    for clock in CLOCKS:
        of = SeriesPath("ohlcv", "binance-futures", BTC, "1s", clock)
        parts = [alone[path].bars(of.dataset, "BTCUSDT", of.interval, clock) for path in alone]
        assert_bars(of.read(out), days_of(parts), of)


def days_of(parts: Sequence[pa.Table]) -> pa.Table:
    """Rows of the 18th from the first recording, those of the 19th from the second."""
    midnight = pa.scalar(datetime(2024, 7, 19), pa.timestamp("us"))
    earlier = pc.less(parts[0].column("time"), midnight)
    later = pc.greater_equal(parts[1].column("time"), midnight)
    return pa.concat_tables([parts[0].filter(earlier), parts[1].filter(later)])
