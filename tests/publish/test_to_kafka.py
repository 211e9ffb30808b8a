"""Archived ticks on a log once more: aggregators make the bars of them that a replay makes."""

import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from aggregate.intervals import LADDER, NS, TRUE
from aggregate.shard import Rules
from ingest.log import Log
from ingest.log.kafka import KafkaLog
from ingest.log.kafka_options import KafkaOptions
from ingest.log.sqlite import SqliteLog
from ingest.records import (
    BARS_TOPIC,
    PUNCTUATION,
    QUOTES,
    SESSION_END,
    SESSION_START,
    TICK_TOPICS,
    TRADES,
    integer,
)
from ingest.ticks import Quotes, Trades, decode
from publish.replay import in_order
from publish.replay.importing import ImportOptions, import_all
from publish.replay.month import Account, MonthUnit, month_bars
from publish.replay.plan import archived_units, imported_units
from publish.replay.ticks_in import Area, RawTicks
from publish.settings import PublishSettings
from publish.store import open_store
from publish.to_kafka import RepublishError, republish
from tests.end_to_end.kafka_runs import bars_of, to_the_end
from tests.end_to_end.recordings import recording
from tests.publish.archiving import run as archive
from tests.publish.replay.archives import AGG_HEADER, AGG_TRADES, text_of, zipped
from tests.publish.replay.raw_archives import seeded, write_archive
from tests.test_cli import assert_refused, perpflow

RULES = Rules(lateness_ns=5 * NS)
PARTITIONS = 3
RECORDINGS = [
    f"binance/usdm_ws_{symbol}_{day}.gz"
    for symbol in ("btcusdt", "ethusdt")
    for day in ("20240718", "20240719")
]
SECONDS = {interval.name: interval.seconds for interval in LADDER}
Units = Sequence[tuple[MonthUnit, str]]


def recorded(directory: Path) -> Units:
    """Ten minutes of two instruments, over a midnight."""
    place = PublishSettings(url=f"file://{directory}/scratch")
    paths = [str(recording(name)) for name in RECORDINGS]
    found = import_all(paths, ImportOptions("binance-futures"), open_store(place))
    return imported_units(place, found, RULES)


def archived(directory: Path) -> Units:
    """Two collectors' days over the end of a month, with copies, stragglers and healed trades."""
    place = PublishSettings(url=f"file://{directory}/archive")
    days = [date(2026, 9, 30), date(2026, 10, 1)]
    natives = ("perpetual-BTC-USDT:USDT", "perpetual-ETH-USDT:USDT")
    made = [seeded(3, "binance-futures", symbol, days, 300) for symbol in natives]
    write_archive(open_store(place), made, opened=days[1])
    return [(unit, "recorded") for unit in archived_units(Area(place), RULES)]


SOURCES = pytest.mark.parametrize("source", [recorded, archived])


async def embedded(directory: Path, name: str = "log") -> SqliteLog:
    log = SqliteLog(directory / f"{name}.db")
    await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), PARTITIONS))
    return log


async def ticks_on(log: Log) -> dict[str, list[Any]]:
    """Every tick of both topics in the order of its partition, as rows."""
    rows: dict[str, list[Any]] = {TRADES: [], QUOTES: []}
    for topic in TICK_TOPICS:
        for partition in range(PARTITIONS):
            offset, promised = 0, 0
            kinds = []
            while found := await log.read(topic, partition, offset):
                offset = found[-1].offset + 1
                for record in found:
                    kind = record.headers["type"]
                    kinds.append(kind)
                    if kind == PUNCTUATION:
                        assert integer(record.headers, "local_ts") >= promised
                        promised = integer(record.headers, "local_ts")
                    if kind in rows:
                        of = decode(Trades if kind == TRADES else Quotes, record.value)
                        assert of.local_ts.min() >= promised
                        names = [of.symbols[code] for code in of.code.tolist()]
                        columns = [column.tolist() for column in of.columns()[1:]]
                        rows[kind] += map(repr, zip(names, *columns, strict=True))
            assert (kinds[0], kinds[-1]) == (SESSION_START, SESSION_END)
    return rows


def replayed(units: Units, end_ns: int) -> dict[tuple[str, ...], dict[str, str]]:
    """Every bar of the months that live has closed when its time is `end_ns`, by what it is."""
    rows = {}
    for unit, _ in units:
        for series, _, table in month_bars(unit, Account()):
            late_ns = 0 if series.clock == TRUE else RULES.lateness_ns
            open_from = (end_ns - RULES.hold_ns - late_ns) // NS
            for row in table.to_pylist():
                if row["time"].timestamp() + SECONDS[series.interval] <= open_from:
                    key = (series.exchange, series.dataset, series.interval, series.clock)
                    values = {name: repr(value) for name, value in row.items()}
                    rows[(*key, series.symbol, values["time"])] = values
    return rows


async def aggregated(log: Log) -> dict[tuple[str, ...], dict[str, str]]:
    await to_the_end(log, range(PARTITIONS), RULES)
    out = {}
    for (_, *key, _), row in (await bars_of(log, range(PARTITIONS))).items():
        symbol = row.pop("symbol").strip("'")
        out[(*key[:-1], symbol, row["time"])] = row
    return out


async def end_of(log: Log) -> int:
    """The last promise (ns)."""
    found = await log.read(TICK_TOPICS[0], 0, 0, max_bytes=1 << 30)
    return max(
        integer(record.headers, "local_ts")
        for record in found
        if record.headers["type"] == PUNCTUATION
    )


@SOURCES
async def test_aggregators_make_the_bars_of_the_replay(source: Any, tmp_path: Path) -> None:
    units = source(tmp_path)
    log = await embedded(tmp_path)
    done = await republish(units, log, "the log", None)
    expected = replayed(units, await end_of(log))
    found = await aggregated(log)
    assert len(expected) > 5_000
    assert found.keys() == expected.keys()
    assert found == expected
    ticks = await ticks_on(log)
    assert (done.trades, done.quotes) == (len(ticks[TRADES]), len(ticks[QUOTES]))
    await log.close()


async def test_how_it_is_sliced_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = archived(tmp_path)
    one, two = await embedded(tmp_path, "one"), await embedded(tmp_path, "two")
    await republish(units, one, "the log", None)
    monkeypatch.setattr(in_order, "SLICE_ROWS", 100)
    monkeypatch.setattr(in_order, "KEPT_ROWS", 0)
    monkeypatch.setattr("publish.to_kafka.BATCH_ROWS", 7)
    monkeypatch.setattr("publish.to_kafka.APPEND_BYTES", 50_000)
    await republish(units, two, "the log", None)
    assert await ticks_on(one) == await ticks_on(two)
    await one.close()
    await two.close()


async def test_what_is_archived_of_it_is_what_was_archived(tmp_path: Path) -> None:
    """Onto a log, from there to an archive, and onto a log again."""
    units = recorded(tmp_path)
    one, two = await embedded(tmp_path, "one"), await embedded(tmp_path, "two")
    await republish(units, one, "the log", None)
    place = PublishSettings(url=f"file://{tmp_path}/archive")
    await archive(one, open_store(place), now=time.time())
    again = [(unit, "recorded") for unit in archived_units(Area(place), RULES)]
    await republish(again, two, "the log", None)
    assert await ticks_on(one) == await ticks_on(two)
    await one.close()
    await two.close()


@pytest.mark.xdist_group("kafka")
async def test_on_kafka_it_is_the_same(kafka: Any, tmp_path: Path) -> None:
    units = archived(tmp_path)
    log = await embedded(tmp_path)
    on_kafka = KafkaLog(KafkaOptions(servers=kafka.servers, prefix=f"re-{time.time_ns()}."))
    await on_kafka.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), PARTITIONS))
    for of in (log, on_kafka):
        await republish(units, of, "the log", None)
    assert await ticks_on(on_kafka) == await ticks_on(log)
    assert await aggregated(on_kafka) == await aggregated(log)
    await on_kafka.close()
    await log.close()


async def test_at_a_speed_it_takes_as_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten minutes at 400 times their speed at least a second and a half, and none earlier; for
    the rest of the last slice, here 100 hours, nothing is waited for."""
    monkeypatch.setattr(in_order, "LONGEST_NS", 360_000 * NS)
    units = recorded(tmp_path)
    log = await embedded(tmp_path)
    began = time.time_ns()
    done = await republish(units, log, "the log", 400.0)
    span = await end_of(log) - min(of.low for of in pieces(units))
    assert 100 > done.seconds >= span / NS / 400 * 0.99 > 1.0
    first = None
    for record in await log.read(TICK_TOPICS[0], 0, 0, max_bytes=1 << 30):
        if record.headers["type"] == PUNCTUATION:
            promise = integer(record.headers, "local_ts")
            first = first or promise
            assert record.appended_ns - began >= (promise - first) / 400 * 0.9
    await log.close()


def pieces(units: Units) -> list[Any]:
    unit = units[0][0]
    return RawTicks(unit.area, unit.exchange, unit.symbol, 0, 2**61).pieces("trades")


async def test_what_is_refused(tmp_path: Path) -> None:
    units = recorded(tmp_path)
    log = await embedded(tmp_path)
    none = [(unit, "none") for unit, _ in units]
    with pytest.raises(RepublishError, match=r"no time of arrival.*pass --assume-latency"):
        await republish(none, log, "the log", None)
    await republish(units, log, "the log", None)
    with pytest.raises(RepublishError, match="the log has ticks already"):
        await republish(units, log, "the log", None)
    await log.close()


def test_the_command(tmp_path: Path) -> None:
    path = zipped(tmp_path / "BTCUSDT-aggTrades-2024-01-01.zip", text_of(AGG_HEADER, AGG_TRADES))
    settings = ("--set", f"log.path={tmp_path}/x.db")
    result = perpflow(
        *("replay", path, "--to-kafka", "--assume-latency", "5ms", *settings), cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "3 trades and 0 quotes of 1 symbols onto" in result.stdout
    both = perpflow("replay", path, "--to-kafka", "--out", "file://x", cwd=tmp_path)
    assert_refused(both, 2, "either --out")
