"""Listings, delistings and contract sizes that change while a collector runs, end to end."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from ingest import continuity, limits, metrics, subscriptions
from ingest.batches import Universe
from ingest.changes import changes
from ingest.gaps import DELISTED
from ingest.instruments import BINANCE, HYPERLIQUID, OKX, Instrument
from ingest.log import Record
from ingest.log.sqlite import SqliteLog
from ingest.records import Coverage
from ingest.simulator import Market, Simulator, market_feed
from ingest.simulator import faults as sim
from ingest.simulator.faults import ConnectionFaults, Fault
from ingest.simulator.listing_changes import Change, ListingChanges
from ingest.simulator.listings import LISTINGS
from tests.end_to_end.fault_accounts import assert_accounted_for, read_trades
from tests.ingest import test_keeper
from tests.ingest.collecting import collected, ticks_of, until
from tests.ingest.test_keeper import PARTITIONS, keeping

NAMES = {
    BINANCE: ("BTCUSDT", "ETHUSDT", "1000PEPEUSDT"),
    OKX: ("BTC-USDT-SWAP", "ETH-USDT-SWAP", "BTC-USD-SWAP"),
    HYPERLIQUID: ("BTC", "ETH", "kPEPE"),
}
CHANNELS = {
    BINANCE: ("trade", "bookTicker"),
    OKX: ("trades-all", "bbo-tbt"),
    HYPERLIQUID: ("trades", "bbo"),
}
log = test_keeper.log


def events(records: Sequence[Record]) -> list[dict[str, str]]:
    found = [orjson.loads(r.value) for r in records if r.headers["type"] == "event"]
    return [e for e in found if "native" in e]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "LINGER_S", 0.2)


def connections_opened(exchange: str) -> float:
    return float(metrics.CONNECTED.labels(exchange)._value.get())


@pytest.mark.parametrize("exchange", list(NAMES))
async def test_listings_subscribe_and_delistings_unsubscribe(
    exchange: str, log: SqliteLog, tmp_path: Path
) -> None:
    stays, comes, goes = NAMES[exchange]
    script = [
        Change(1.0, exchange, comes, trading=True),
        Change(1.0, exchange, goes, trading=False),
    ]
    market = Market(3, exchange, NAMES[exchange], start_ns=time.time_ns(), intensity=4.0)
    opened = connections_opened(exchange)
    async with (
        Simulator({exchange: market_feed(market)}, changes=script) as simulator,
        keeping(log, tmp_path, exchange, ["all"], simulator.port, refresh_s=0.2) as (_, made),
    ):
        await until(lambda: bool(made) and made[0].subscribed)
        collector = made[0]
        assert {n for _, n in collector.carries} == {stays, goes}
        await until(lambda: {n for _, n in collector.carries} == {stays, comes})
        # The venue, too, has the streams of two instruments, on the connections that remain.
        await until(lambda: simulator.subscribed == 4)
        await until(lambda: not collector.uncovered)
        ticks = collector.ticks
        await until(lambda: collector.ticks > ticks + 100)
    records = await collected(log, PARTITIONS)
    every = [r for part in records.values() for r in part]
    happened = [orjson.loads(r.value) for r in every if r.headers["type"] == "event"]
    # All of it on the connections there were.
    connected = [e for e in happened if "path" in e]
    assert {e["event"] for e in connected} == {"connected"}
    assert connections_opened(exchange) == opened + len({e["path"] for e in connected})
    told = {(e["event"], e["native"]) for e in happened if "native" in e}
    assert told == {("listed", comes), ("delisted", goes)}
    coverages = [Coverage.decode(r.value) for r in every if r.headers["type"] == "coverage"]
    assert len({s for c in coverages for s in c.symbols}) == 3
    ticks_there = [t for r in every if (t := ticks_of(r)) is not None]
    assert len({t.symbols[code] for t in ticks_there for code in set(t.code)}) == 3


async def test_a_listing_beyond_the_venues_limit_is_left_out_and_told_once(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, comes, stays_too = NAMES[HYPERLIQUID]
    few = replace(limits.LIMITS[HYPERLIQUID], subscriptions=4)
    monkeypatch.setitem(limits.LIMITS, HYPERLIQUID, few)
    script = [Change(1.0, HYPERLIQUID, comes, trading=True)]
    market = Market(3, HYPERLIQUID, NAMES[HYPERLIQUID], start_ns=time.time_ns(), intensity=4.0)
    fetched = metrics.LIST_FETCHED.labels(HYPERLIQUID)
    with capture_logs() as told:
        async with (
            Simulator({HYPERLIQUID: market_feed(market)}, changes=script) as simulator,
            keeping(log, tmp_path, HYPERLIQUID, ["all"], simulator.port, refresh_s=0.2) as (
                _,
                made,
            ),
        ):
            await until(lambda: any("instruments are left out" in e["event"] for e in told))
            since = fetched._value.get()
            await until(lambda: fetched._value.get() > since + 0.5)
            assert {n for _, n in made[0].carries} == {stays, stays_too}
    (line,) = (e for e in told if "instruments are left out" in e["event"])
    assert (line["instruments"], line["first"]) == (1, comes)


async def test_collectors_of_one_process_share_the_venues_limit_of_subscriptions(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(limits.LIMITS[HYPERLIQUID], subscriptions=4)
    monkeypatch.setitem(limits.LIMITS, HYPERLIQUID, few)
    market = Market(3, HYPERLIQUID, NAMES[HYPERLIQUID], start_ns=time.time_ns(), intensity=4.0)
    with capture_logs() as told:
        async with Simulator({HYPERLIQUID: market_feed(market)}) as simulator:
            of = log, tmp_path, HYPERLIQUID
            async with keeping(*of, ["BTC"], simulator.port) as (_, first):
                await until(lambda: bool(first) and first[0].subscribed)
                other = keeping(*of, ["ETH", "kPEPE"], simulator.port, collector="c2")
                async with other as (_, second):
                    await until(lambda: bool(second) and second[0].subscribed)
                    assert {n for _, n in second[0].carries} == {"ETH"}
                    await until(lambda: not second[0].uncovered)
            async with keeping(*of, ["ETH", "kPEPE"], simulator.port) as (_, third):
                await until(lambda: bool(third) and third[0].subscribed)
                assert {n for _, n in third[0].carries} == {"ETH", "kPEPE"}
    assert [e["first"] for e in told if "no more subscriptions" in e["event"]] == ["kPEPE"]


async def test_a_contract_size_takes_effect_from_the_event_on(
    log: SqliteLog, tmp_path: Path
) -> None:
    script = [Change(1.0, OKX, "BTC-USDT-SWAP", contract_size=1.28)]
    market = Market(3, OKX, ["BTC-USDT-SWAP"], start_ns=time.time_ns(), intensity=4.0)
    async with (
        Simulator({OKX: market_feed(market)}, changes=script) as simulator,
        keeping(log, tmp_path, OKX, ["all"], simulator.port, refresh_s=0.2) as (_, made),
    ):
        await until(lambda: bool(made) and made[0].subscribed)
        await until(lambda: made[0].sizes["BTC-USDT-SWAP"] == 1.28)
        ticks = made[0].ticks
        await until(lambda: made[0].ticks > ticks + 100)
    changed = 0
    for part in (await collected(log, PARTITIONS)).values():
        size = 0.01
        for record in part:
            for event in events([record]):
                assert event["event"] == "contract-size"
                assert (float(event["before"]), float(event["after"])) == (0.01, 1.28)
                size, changed = 1.28, changed + 1
            ticks_here = ticks_of(record)
            if record.headers["type"] == "trades" and ticks_here is not None:
                lots = ticks_here.qty / size / 0.01  # type: ignore[union-attr]
                assert (abs(lots - lots.round()) < 1e-6).all()
                assert (lots > 0.5).all()
    assert changed == PARTITIONS


async def test_what_is_delisted_while_its_collector_is_gone_is_healed(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuity, "LAST_NS", 300_000_000)
    stays, goes, _ = NAMES[OKX]
    start = time.time_ns()
    script = [Change(5.0, OKX, goes, trading=False)]
    market = Market(3, OKX, [stays, goes], start, channels=CHANNELS[OKX], intensity=20.0)
    of = log, tmp_path, OKX, ["all"]
    async with Simulator({OKX: market_feed(market)}, changes=script) as simulator:
        async with keeping(*of, simulator.port, heal=True) as (_, made):
            await until(lambda: bool(made) and made[0].ticks > 300)
            symbol = next(i.symbol for i in made[0]._universe.instruments if i.native == goes)
        before = (await read_trades(log, PARTITIONS)).symbols[OKX, symbol].ids
        await until(lambda: simulator.market_ns > start + 5_100_000_000, "delisted")
        for _ in range(2):  # the second time it is known
            async with keeping(*of, simulator.port, heal=True) as (_, again):
                await until(lambda made=again: bool(made) and made[0].ticks > 20)  # type: ignore[misc]
                waited = time.time_ns() + 600_000_000
                await until(lambda at=waited: time.time_ns() > at)  # type: ignore[misc]
                await until(lambda made=again: not made[0].healing)  # type: ignore[misc]
        ledger = simulator.ledgers[OKX].trades(f"{CHANNELS[OKX][0]}:{goes}")
    found = (await read_trades(log, PARTITIONS)).symbols[OKX, symbol]
    assert ledger.id.max() > before.max()
    assert found.ids.tolist() == [i for i in ledger.id.tolist() if i >= before[0]]
    assert [g.state for g in found.gaps if g.reason == DELISTED] == ["open", "healed"]


@pytest.mark.parametrize("exchange", list(NAMES))
async def test_what_is_delisted_while_its_connection_is_down_is_healed_or_in_a_recorded_gap(
    exchange: str, log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuity, "LAST_NS", 300_000_000)
    stays, goes, _ = NAMES[exchange]
    channels = CHANNELS[exchange]
    start = time.time_ns()
    market = Market(3, exchange, [stays, goes], start, channels=channels, intensity=20.0)
    faults = ConnectionFaults([Fault(2.0, sim.STORM, seconds=2.0)])
    script = [Change(3.0, exchange, goes, trading=False)]
    async with (
        Simulator(
            {exchange: market_feed(market)}, changes=script, connection_faults=faults
        ) as simulator,
        keeping(log, tmp_path, exchange, ["all"], simulator.port, refresh_s=0.2, heal=True) as (
            _,
            made,
        ),
    ):
        await until(lambda: bool(made) and made[0].subscribed)
        await until(lambda: len(made[0]._active) == 1, "delisted")
        await until(lambda: made[0].subscribed, "connected again")
        ticks, beyond = made[0].ticks, time.time_ns() + 500_000_000
        await until(lambda: made[0].ticks > ticks + 20 and time.time_ns() > beyond)
        await until(lambda: not made[0].healing)
        key = f"{goes.lower()}@trade" if exchange == BINANCE else f"{channels[0]}:{goes}"
        ledger = simulator.ledgers[exchange].trades(key)
    symbol = next(i.symbol for i in made[0]._universe.instruments if i.native == goes)
    mine = (await read_trades(log, PARTITIONS)).symbols[exchange, symbol]
    first_ms = int(ledger.ms[ledger.id == mine.id[0]][0])
    missing = assert_accounted_for(ledger, mine, first_ms)
    (opened, closed) = [g for g in mine.gaps if g.reason == DELISTED]
    assert opened.first_missing == closed.first_missing
    assert closed.exchange_ts // 1_000_000 < ledger.ms.max() <= closed.exchange_to // 1_000_000
    if exchange != HYPERLIQUID:  # its list of recent trades may be too short
        assert (closed.state, missing, closed.missing) == ("healed", 0, 0)
        assert closed.healed > 0


def test_a_universe_keeps_its_codes() -> None:
    a, b = (Instrument(OKX, n, f"perpetual-{n}", 0.1) for n in ("A", "B"))
    bigger = Instrument(OKX, "A", "perpetual-A", 10.0)
    universe = Universe([a]).changed([b, bigger])
    assert universe.symbols == ["perpetual-A", "perpetual-B"]
    assert universe.contract_size.tolist() == [10.0, 0.1]
    change = changes({"A": a, "X": b}, [bigger, b])
    assert (change.added, change.gone, change.resized) == ((b,), (b,), (bigger,))
    assert not changes({"A": a}, [a])


def test_scripted_listings() -> None:
    btc = [listing for listing in LISTINGS if listing.exchange == OKX][:2]
    name, other = (listing.native for listing in btc)
    script = ListingChanges(
        OKX,
        [
            Change(1.0, OKX, name, trading=True),
            Change(2.0, OKX, name, contract_size=5.0),
            Change(3.0, OKX, name, trading=False),
            Change(0.0, BINANCE, other, trading=False),
        ],
    )

    def at(seconds: float) -> list[tuple[str, bool, float]]:
        listed = script.listed(btc, round(seconds * 1e9))
        return [(i.native, i.trading, i.contract_size) for i in listed]

    rest = (other, True, btc[1].contract_size)
    assert at(0.5) == [rest]
    assert at(1.0) == [(name, True, btc[0].contract_size), rest]
    assert at(2.5) == [(name, True, 5.0), rest]
    assert at(3.5) == [(name, False, 5.0), rest]
    key = f"trades:{name}"
    assert [script.silent(key, round(s * 1e9)) for s in (0.5, 1.5, 2.5, 3.5)] == [
        *(True, False, False, True)
    ]
    assert not script.silent(f"trades:{other}", 0)
