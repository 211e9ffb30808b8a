"""The script of connection faults, and what the simulator counts of what it did."""

import time
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed

from ingest.simulator import Simulator
from ingest.simulator import faults as sim
from ingest.simulator.faults import ConnectionFaults, Fault, script
from ingest.simulator.listings import BINANCE, OKX
from tests.ingest.simulating import Client, eventually, feed

KEYS = ["btcusdt@trade", "btcusdt@bookTicker"]


async def test_a_script_follows_the_markets_time_and_hits_are_counted() -> None:
    faults = ConnectionFaults(
        [
            Fault(20.0, sim.TRUNCATED),
            Fault(40.0, sim.CLOSE, BINANCE, code=1012),
            Fault(60.0, sim.HUGE),
        ]
    )
    simulator = Simulator(
        {BINANCE: feed(BINANCE, 90)}, speed=100.0, streams=4, connection_faults=faults
    )
    async with simulator, Client(simulator, BINANCE, KEYS) as one:
        assert not faults.struck
        async with Client(simulator, BINANCE, KEYS) as other:
            await eventually(simulator.finished.is_set)
            for client in (one, other):
                await eventually(lambda client=client: client.closed is not None)  # type: ignore[misc]
                assert client.closed == (1012, "service restart")
    assert faults.struck == {sim.TRUNCATED: 1, sim.CLOSE: 1, sim.HUGE: 1}
    # Nobody was left to get the last.
    assert faults.hits == {(sim.TRUNCATED, BINANCE): 2, (sim.CLOSE, BINANCE): 2}


async def test_what_was_delivered_is_what_the_clients_got() -> None:
    simulator = Simulator({BINANCE: feed(BINANCE, 60)}, speed=200.0, streams=4)
    async with simulator, Client(simulator, BINANCE, KEYS) as one:
        async with Client(simulator, BINANCE, KEYS) as other:
            await eventually(simulator.finished.is_set)
            clients = (one, other)
            await eventually(
                lambda: (
                    simulator.delivered[BINANCE]
                    == sum(len(c.pushes) + len(c.others) for c in clients)
                )
            )
        assert simulator.opened_connections == {BINANCE: 2}
        before = simulator.delivered
    assert simulator.delivered == before
    assert before[BINANCE] > 500


async def test_a_market_that_was_held_up_does_not_run_to_catch_up() -> None:
    simulator = Simulator({BINANCE: feed(BINANCE, 4_000)}, speed=100.0, streams=1)
    async with simulator, Client(simulator, BINANCE, KEYS[:1]) as client:
        await client.received(5)
        before = simulator.market_ns
        time.sleep(1.0)  # noqa: ASYNC251  # the whole process: a hundred seconds of market
        held_up = len(client.pushes)
        await client.received(held_up + 1)
        assert simulator.market_ns - before < 50e9


async def test_a_lasting_fault_ends_when_it_is_healed() -> None:
    faults = ConnectionFaults()
    simulator = Simulator({BINANCE: feed(BINANCE, 4_000)}, speed=100.0, connection_faults=faults)
    async with simulator:
        faults.strike(Fault(0.0, sim.STORM, BINANCE, 1e6))
        with suppress(ConnectionClosed):  # before it has asked for anything, or soon after
            async with Client(simulator, BINANCE, KEYS) as refused:
                await eventually(lambda: refused.closed is not None)
        assert faults.hits == {(sim.STORM, BINANCE): 1}
        faults.heal()
        async with Client(simulator, BINANCE, KEYS) as client:
            await client.received(5)


@pytest.mark.parametrize("exchange", [OKX, BINANCE])
def test_a_random_script_is_of_market_seconds(exchange: str) -> None:
    faults = script(3, 600.0, [exchange])
    assert faults == sorted(faults, key=lambda fault: fault.at)
    assert {fault.exchange for fault in faults} <= {exchange, OKX}
