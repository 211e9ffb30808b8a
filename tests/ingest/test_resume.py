"""What a restart knows from the log's tail."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from ingest import resume as module
from ingest.continuity import IdContinuity
from ingest.gaps import FILLS, IDS, RESTART, Gap
from ingest.instruments import BINANCE, HYPERLIQUID, partition_of
from ingest.log import NewRecord
from ingest.log.sqlite import SqliteLog
from ingest.records import (
    COVERAGE,
    GAP,
    OPEN,
    TICK_TOPICS,
    TRADES,
    TRADES_TOPIC,
    UNHEALABLE,
    Coverage,
    Source,
)
from ingest.resume import resume
from ingest.session import gap_record
from ingest.ticks import BACKLOG, encode
from ingest.untraded import NOTICED_NS
from tests.ingest.test_continuity import NOW, SYMBOLS, batch, single

PARTITIONS = 3


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(str(tmp_path / "log.db"))
    await log.create(dict.fromkeys(TICK_TOPICS, PARTITIONS))
    yield log
    await log.close()


def trades(code: int, *ids: int, exchange: str = BINANCE, at: int = NOW) -> NewRecord:
    value = encode(batch(single(code, *ids), at=at)[0])
    headers = Source(exchange, exchange, "c1", "1").headers(TRADES, 0)
    where = partition_of(BINANCE, SYMBOLS[code], PARTITIONS)
    return NewRecord(TRADES_TOPIC, where, value, headers)


def gap(found: Gap, state: str, exchange: str = BINANCE) -> NewRecord:
    record = gap_record(exchange, found)
    record = type(record)(**{n: getattr(record, n) for n in record.__slots__} | {"state": state})
    headers = Source(exchange, exchange, "c1", "1").headers(GAP, 0)
    where = partition_of(exchange, found.symbol, PARTITIONS)
    return NewRecord(TRADES_TOPIC, where, record.encode(), headers)


def covered(code: int) -> NewRecord:
    where = partition_of(BINANCE, SYMBOLS[code], PARTITIONS)
    headers = Source(BINANCE, BINANCE, "c1", "1").headers(COVERAGE, 0)
    value = Coverage([SYMBOLS[code]], NOW - 5, NOW - 5).encode()
    return NewRecord(TRADES_TOPIC, where, value, headers)


def ids(first: int, last: int) -> Gap:
    return Gap(SYMBOLS[0], IDS, first, last, last - first + 1, "sequence", NOW, NOW, NOW)


async def resumed(
    log: SqliteLog, records: Sequence[NewRecord], *, aggregated: bool = False
) -> IdContinuity:
    await log.append(records)
    checks = await resume(log, BINANCE, SYMBOLS, PARTITIONS, aggregated=aggregated)
    assert isinstance(checks, IdContinuity)
    return checks


async def test_an_empty_log_knows_nothing(log: SqliteLog) -> None:
    checks = await resumed(log, [])
    assert checks.top(SYMBOLS[0]) is None
    assert checks.due() == []


async def test_the_last_ids_are_known_and_the_gap_over_the_restart_is_found(log: SqliteLog) -> None:
    checks = await resumed(log, [trades(0, 1, 2), trades(1, 70), trades(0, 3)])
    assert (checks.top(SYMBOLS[0]), checks.top(SYMBOLS[1])) == (3, 70)
    assert checks.due() == []
    checks.check(*batch([*single(0, 9), *single(1, 71)], at=NOW + 9))
    (found,) = checks.due()
    assert (found.first_missing, found.last_missing, found.reason) == (4, 8, RESTART)
    assert found.exchange_ts == NOW


async def test_other_venues_records_are_not_ours(log: SqliteLog) -> None:
    checks = await resumed(log, [trades(0, 1), trades(0, 9, exchange="okx-perps")])
    assert checks.top(SYMBOLS[0]) == 1


async def test_a_hole_nobody_recorded_is_due_and_what_was_given_up_is_not(log: SqliteLog) -> None:
    records = [trades(0, 1, 5, 9), gap(ids(2, 4), OPEN), gap(ids(2, 4), UNHEALABLE)]
    checks = await resumed(log, [*records, gap(ids(6, 8), OPEN)])
    assert [(g.first_missing, g.last_missing) for g in checks.due()] == [(6, 8)]


async def test_of_aggregates_only_the_restart_is_looked_at(log: SqliteLog) -> None:
    checks = await resumed(log, [trades(0, 1, 5, 9)], aggregated=True)
    assert checks.due() == []
    assert checks.top(SYMBOLS[0]) == 9


async def test_it_reads_back_until_every_symbol_has_traded_and_no_further_than_the_bound(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_RECORDS", 2)
    far = [trades(1, 70), *(trades(0, i) for i in range(1, 40))]
    assert (await resumed(log, far)).top(SYMBOLS[1]) == 70
    monkeypatch.setattr(module, "TAIL_BYTES", 1)
    bounded = await resumed(log, [])
    assert bounded.top(SYMBOLS[0]) == 39


async def test_hyperliquids_open_gaps_are_due_again_and_its_last_fills_known(
    log: SqliteLog,
) -> None:
    fills = [Gap(SYMBOLS[0], FILLS, None, None, None, "disconnect", t, t + 5, t) for t in (1, 2)]
    partition = partition_of(HYPERLIQUID, SYMBOLS[0], PARTITIONS)
    seen = trades(0, 900, 17, exchange=HYPERLIQUID)
    await log.append(
        [
            NewRecord(TRADES_TOPIC, partition, seen.value, seen.headers),
            *(gap(g, OPEN, HYPERLIQUID) for g in fills),
            gap(fills[0], UNHEALABLE, HYPERLIQUID),
        ]
    )
    checks = await resume(log, HYPERLIQUID, SYMBOLS[:1], PARTITIONS, aggregated=False)
    assert checks.due() == [fills[1]]
    checks.check(batch(single(0, 17, 5), 1, NOW + 9)[0])
    assert checks.due() == []
    checks.check(batch(single(0, 6), 1, NOW + 10)[0])
    assert [g.reason for g in checks.due()] == [RESTART]


async def test_a_symbol_that_was_collected_and_had_not_traded_has_a_gap_of_unknown_size(
    log: SqliteLog,
) -> None:
    checks = await resumed(log, [covered(1), trades(0, 1, 2)])
    assert checks.due() == []
    checks.check(*batch([*single(0, 3), *single(1, 70)], at=NOW + 9))
    (found,) = checks.due()
    assert (found.symbol, found.kind, found.reason) == (SYMBOLS[1], FILLS, RESTART)
    assert (found.first_missing, found.last_missing, found.missing) == (None, None, None)
    assert (found.exchange_ts, found.local_ts) == (NOW - NOTICED_NS, NOW + 9)
    checks.check(*batch(single(1, 71), at=NOW + 10))
    assert checks.due() == []


async def test_what_a_symbol_traded_before_the_bound_is_a_gap_of_unknown_size(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_RECORDS", 2)
    monkeypatch.setattr(module, "TAIL_BYTES", 1)
    records = [trades(1, 70), *(trades(0, i) for i in range(1, 40))]
    await log.append([NewRecord(r.topic, 0, r.value, r.headers) for r in records])
    checks = await resume(log, BINANCE, SYMBOLS, 1, aggregated=False)
    checks.check(*batch([*single(0, 40), *single(1, 99)], at=NOW + 9))
    assert [(g.symbol, g.kind) for g in checks.due()] == [(SYMBOLS[1], FILLS)]


async def test_a_partition_whose_tail_is_another_venues_is_searched_no_further(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_RECORDS", 2)
    monkeypatch.setattr(module, "TAIL_BYTES", 1)
    flood = [trades(1, i, exchange="okx-perps") for i in range(40)]
    await log.append([trades(1, 70), *flood, trades(0, 1)])
    assert trades(0, 1).partition != trades(1, 1).partition
    checks = await resume(log, BINANCE, SYMBOLS, PARTITIONS, aggregated=False)
    checks.check(*batch(single(1, 99), at=NOW + 9))
    assert [(g.symbol, g.kind) for g in checks.due()] == [(SYMBOLS[1], FILLS)]


async def test_a_venue_whose_records_are_all_behind_the_bound_is_not_taken_for_new(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_RECORDS", 2)
    monkeypatch.setattr(module, "TAIL_BYTES", 1)
    floods = [trades(c, i, exchange="okx-perps") for i in range(40) for c in (0, 1)]
    await log.append([trades(0, 1), trades(1, 70), *floods])
    checks = await resume(log, BINANCE, SYMBOLS, PARTITIONS, aggregated=False)
    checks.check(*batch([*single(0, 9), *single(1, 99)], at=NOW + 9))
    assert {(g.symbol, g.kind, g.reason) for g in checks.due()} == {
        (symbol, FILLS, RESTART) for symbol in SYMBOLS
    }


async def test_a_venue_that_is_nowhere_on_the_log_is_new(log: SqliteLog) -> None:
    await log.append([trades(c, i, exchange="okx-perps") for i in range(40) for c in (0, 1)])
    checks = await resume(log, BINANCE, SYMBOLS, PARTITIONS, aggregated=False)
    checks.check(*batch([*single(0, 9), *single(1, 99)], at=NOW + 9))
    assert checks.due() == []


async def test_of_a_coin_that_traded_before_the_bound_a_full_backlog_is_a_gap(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_RECORDS", 2)
    monkeypatch.setattr(module, "TAIL_BYTES", 1)
    mine = [trades(c, i, exchange=HYPERLIQUID) for c, i in [(1, 70), *((0, i) for i in range(9))]]
    await log.append([NewRecord(r.topic, 0, r.value, r.headers) for r in mine])
    checks = await resume(log, HYPERLIQUID, SYMBOLS, 1, aggregated=False)
    checks.check(*batch(single(1, *range(100, 130)), BACKLOG, NOW + 9))
    assert [(g.symbol, g.kind, g.reason) for g in checks.due()] == [(SYMBOLS[1], FILLS, RESTART)]


async def test_an_open_gap_of_unknown_size_is_due_again(log: SqliteLog) -> None:
    unknown = Gap(SYMBOLS[0], FILLS, None, None, None, RESTART, NOW, NOW + 5, NOW + 5)
    checks = await resumed(log, [trades(0, 1), gap(unknown, OPEN)])
    assert checks.due() == [unknown]
    checks = await resumed(log, [gap(unknown, UNHEALABLE)])
    assert checks.due() == []
