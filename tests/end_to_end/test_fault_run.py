"""The fault run: 219 symbols of three venues, every fault there is, and the simulator's ledger.

Every trade of the ledger is on the log, once when copies are removed, or inside a recorded gap; and
/metrics says so.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from aggregate.aggregator import Aggregator
from aggregate.shard import Rules
from ingest.gaps import DISCONNECT, FILLS
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.line import label_of
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC, OPEN, TICK_TOPICS
from ingest.simulator import EXCHANGES, Simulator
from ingest.simulator import faults as sim
from ingest.simulator.spans import instruments_of
from publish import health
from publish.settings import MetricsSettings
from tests.end_to_end.fault_accounts import (
    LogAccount,
    OnLog,
    Scrape,
    assert_accounted_for,
    bar_counts,
    read_trades,
    scrape,
)
from tests.end_to_end.fault_run import (
    LISTED,
    NS,
    PARTITIONS,
    RESIZED,
    START,
    Plan,
    accelerate,
    market,
    plan,
    run,
    trade_key,
)
from tests.publish.test_health import free_port

LATENESS_NS = 7_200 * NS
"""Longer than a run: what is healed late is in the bars too."""
RULES = Rules(lateness_ns=LATENESS_NS, partial=True)
NOT_JSON = (sim.BINARY, sim.MALFORMED, sim.TRUNCATED)


@pytest.mark.parametrize(
    ("seed", "speed", "seconds"),
    [
        (1, 10.0, 0.0),
        *(pytest.param(seed, 20.0, 3_500.0, marks=pytest.mark.nightly) for seed in range(1, 11)),
    ],
)
async def test_every_trade_is_on_the_log_or_inside_a_recorded_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, speed: float, seconds: float
) -> None:
    accelerate(monkeypatch, speed)
    script = plan(seed, speed, seconds)
    print(f"seed {seed}: {script.end:.0f} s of market with faults from {script.begin:.0f} s on")
    log = SqliteLog(str(tmp_path / "log.db"))
    port = free_port()
    try:
        async with health.served(MetricsSettings(port=port), lambda: True):
            before = scrape(port)
            simulator = await run(script, log, tmp_path, LATENESS_NS)
            await aggregated(log)
            counted = scrape(port) - before
        found = await read_trades(log, PARTITIONS)
        in_bars = await bar_counts(log, PARTITIONS)
    finally:
        await log.close()

    assert_every_fault_struck(script, simulator)
    for exchange in EXCHANGES:
        symbols = symbols_of(seed, exchange)
        assert set(symbols) == {s for e, s in found.symbols if e == exchange}
        missing = 0
        for symbol, native in symbols.items():
            mine = found.symbols[exchange, symbol]
            made = simulator.ledgers[exchange].trades(trade_key(exchange, native))
            listed_late = native == LISTED[exchange]
            start_ms = first_ms(made, mine) if listed_late else START // 1_000_000
            missing += assert_accounted_for(made, mine, start_ms)
            there = made.market & np.isin(made.id, mine.ids)
            assert in_bars[exchange, symbol] == there.sum(), (exchange, symbol)
        print(f"{exchange}: {missing} trades in gaps alone")
        assert_records_agree(exchange, found, counted)
        assert_simulator_agrees(exchange, simulator, script, found, counted)
    assert_untraded_in_doubt(found)
    assert_contract_size(found.symbols[OKX, symbol_of(seed, OKX, RESIZED)], simulator)
    assert_nothing_uncounted(found, in_bars, counted)


def first_ms(made, mine: OnLog) -> int:
    """When the first trade of a symbol was made that the collector has seen."""
    return int(made.ms[made.id == mine.id[0]][0])


async def aggregated(log: SqliteLog) -> None:
    """Everything on the log to bars."""
    await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), PARTITIONS))
    for partition in range(PARTITIONS):
        aggregator = Aggregator(log, [partition], RULES)
        aggregator.stop(drain_s=300.0)  # reads to the end of the log, commits, and returns
        await aggregator.run()


def symbols_of(seed: int, exchange: str) -> dict[str, str]:
    return {i.symbol: i.native for i in instruments_of(market(seed, exchange).listings)}


def symbol_of(seed: int, exchange: str, native: str) -> str:
    return next(s for s, n in symbols_of(seed, exchange).items() if n == native)


def assert_every_fault_struck(script: Plan, simulator: Simulator) -> None:
    assert set(script.connections.struck) == set(sim.KINDS)
    for exchange in EXCHANGES:
        for kind in set(sim.KINDS) - {sim.NOTICE}:
            assert script.connections.hits[kind, exchange] > 0, (kind, exchange)
    assert script.connections.hits[sim.NOTICE, OKX] > 0
    struck = script.data.struck
    for kind in ("drop", "duplicate", "reorder", "delay", "shift", "429", "418"):
        assert struck[kind] >= 5, (kind, struck)


def assert_records_agree(exchange: str, found: LogAccount, counted: Scrape) -> None:
    """What /metrics counts is what the records of the log say."""
    gaps = found.gaps(exchange)
    opened = [g for g in gaps if g.state == OPEN]
    closed = [g for g in gaps if g.state != OPEN]
    assert len(closed) == len(opened) > 0
    assert counted.by("gaps", "reason", exchange=exchange) == Counter(g.reason for g in opened)
    assert counted.by("gaps_closed", "state", exchange=exchange) == Counter(g.state for g in closed)
    assert counted.total("trades_missing", exchange=exchange) == sum(g.missing or 0 for g in closed)
    healed = found.healed(exchange)
    assert (
        counted.total("trades_healed", exchange=exchange) == healed == sum(g.healed for g in closed)
    )
    parsed = counted.total("ticks", exchange=exchange, kind="trades")
    assert parsed + healed == found.rows(exchange)
    if exchange != HYPERLIQUID:
        assert healed > 50
    lost = counted.by("connections_lost", "reason", exchange=exchange)
    del lost["can't connect"]  # never stood, so nothing was disconnected
    told = Counter[str]()
    for reason, n in found.count(exchange, "disconnected").items():
        told[label_of(reason)] += n
    assert lost == told
    assert {"closed 1001", "closed 1006", "closed 1012"} <= set(lost)
    renewed = counted.by("connections_replaced", "reason", exchange=exchange)
    assert renewed == found.count(exchange, "replaced")
    assert renewed["silence"] > 0


def assert_simulator_agrees(
    exchange: str, simulator: Simulator, script: Plan, found: LogAccount, counted: Scrape
) -> None:
    """What /metrics counts is what the simulator did."""
    hits, struck = script.connections.hits, script.data.struck
    malformed = Counter({"not JSON": sum(hits[kind, exchange] for kind in NOT_JSON)})
    if exchange == HYPERLIQUID:  # the others may send messages without a channel
        malformed["not a Hyperliquid frame"] = hits[sim.HUGE, exchange]
    assert counted.by("frames_malformed", "reason", exchange=exchange) == malformed
    assert counted.total("subscriptions_refused", exchange=exchange) == hits[sim.REFUSE, exchange]
    opened = counted.total("connections_opened", exchange=exchange)
    # A handshake that the venue has completed may be broken off by us.
    assert 0 <= simulator.opened_connections[exchange] - opened <= 0.1 * opened
    lost_on_the_way = simulator.delivered[exchange] - counted.total("frames", exchange=exchange)
    assert 0 <= lost_on_the_way <= 0.002 * simulator.delivered[exchange]
    for status in ("429", "418"):
        assert counted.total("history_requests", status=status) == struck[status]


def assert_untraded_in_doubt(found: LogAccount) -> None:
    """Of some that traded for the first time in the first round it is not known what they traded
    while their connection was gone."""
    for exchange in (BINANCE, OKX):
        unknown = [g for g in found.gaps(exchange) if (g.kind, g.reason) == (FILLS, DISCONNECT)]
        assert {g.first_missing for g in unknown} == {None}


def assert_contract_size(mine: OnLog, simulator: Simulator) -> None:
    """Contracts of one SOL, then of two and a half."""
    made = simulator.ledgers[OKX].trades(trade_key(OKX, RESIZED))
    order = made.id.argsort()
    contracts = made.size[order][made.id[order].searchsorted(mine.id)]
    size = mine.qty / contracts
    assert set(size.round(9).tolist()) == {1.0, 2.5}


def assert_nothing_uncounted(found: LogAccount, in_bars: Counter, counted: Scrape) -> None:
    """Ticks in are ticks in bars and ticks left out, by reason."""
    ticks = counted.total("ticks", kind="trades") + counted.total("trades_healed")
    left_out = counted.by("aggregate_discarded", "reason", kind="trades", clock="exchange")
    left_out += counted.by("aggregate_discarded", "reason", kind="trades", clock="both")
    # After the end hours of market time pass at once: a backlog that comes then is late.
    assert set(left_out) <= {"duplicate", "not_a_trade", "late"}, left_out
    assert ticks == in_bars.total() + left_out.total()
    copies = sum(len(s.id) - len(s.ids) for s in found.symbols.values())
    known = left_out["duplicate"] + left_out["late"]
    assert 0 <= copies - known <= left_out["not_a_trade"]
