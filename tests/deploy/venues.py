"""The simulated venues as a process that does what is written to it, a line a command:

down EXCHANGE                       every connection is closed as soon as it is open
silent EXCHANGE STREAMS             those streams (a regular expression) say nothing more
heal                                all is well again
"""

import asyncio
import sys
import time

from ingest.simulator import DEFAULT_NATIVES, EXCHANGES, Market, Simulator, market_feed
from ingest.simulator.faults import SILENT, STORM, ConnectionFaults, Fault
from ingest.simulator.flow import SECOND

SEED = 8
INTENSITY = 2.0
NATIVES = {exchange: DEFAULT_NATIVES[exchange][:2] for exchange in EXCHANGES}
_LASTING_S = 1e6


async def main() -> None:
    start = (time.time_ns() // SECOND + 1) * SECOND
    markets = {
        exchange: Market(SEED, exchange, NATIVES[exchange], start, intensity=INTENSITY)
        for exchange in EXCHANGES
    }
    faults = ConnectionFaults()
    feeds = {exchange: market_feed(market, None) for exchange, market in markets.items()}
    async with Simulator(feeds, not_before_ns=start, connection_faults=faults) as simulator:
        print(simulator.port, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            obey(faults, line.split())


def obey(faults: ConnectionFaults, words: list[str]) -> None:
    if words == ["heal"]:
        faults.heal()
    elif words[0] == "down":
        faults.strike(Fault(0, STORM, words[1], _LASTING_S))
    else:
        faults.strike(Fault(0, SILENT, words[1], _LASTING_S, streams=words[2]))


if __name__ == "__main__":
    asyncio.run(main())
