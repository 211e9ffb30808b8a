"""Why trades are in no bar, against the aggregator itself."""

import numpy as np
import pytest

from aggregate.bars import BarBatch
from aggregate.shard import END, Rules, ShardAggregator
from ingest.ticks import BACKLOG, BUY, HEALED, LIVE, SELL, Trades
from publish.exclusions import REASONS, Exclusions
from tests.publish.archiving import LATENESS, MIDNIGHT
from tests.publish.ticks_on_log import BTC, NS


@pytest.mark.parametrize("exchange", ["binance-futures", "hyperliquid-perps"])
@pytest.mark.parametrize("seed", range(4))
def test_exactly_the_trades_that_are_not_excluded_are_in_the_bars(exchange: str, seed: int) -> None:
    """Against the aggregator itself: the trades counted in each 1s bar of both clocks."""
    chance = np.random.default_rng(seed)
    n = 3000
    local = MIDNIGHT * NS + np.sort(chance.integers(0, 600 * NS, n))
    delay = chance.choice([3e6, 2e9, 6e9, -70e9, 400e9], n, p=[0.8, 0.1, 0.05, 0.02, 0.03])
    number = np.arange(n) + 1
    again = chance.random(n) < 0.1
    number[again] = np.maximum(1, number[again] - chance.integers(1, 40, again.sum()))
    exchange_ts = (local - delay.astype(np.int64)) // 1_000_000 * 1_000_000
    seen: dict[int, int] = {}
    for i in range(n):  # copies carry the venue's stamp of the first
        exchange_ts[i] = seen.setdefault(int(number[i]), int(exchange_ts[i]))
    columns = [
        *(np.zeros(n), exchange_ts, local, number, np.ones(n)),
        *(chance.choice([BUY, SELL], n), np.full(n, 10.0), np.full(n, 1.0), np.full(n, 10.0)),
        *(chance.choice([LIVE, BACKLOG, HEALED], n, p=[0.9, 0.05, 0.05]),),
        *(chance.random(n) < 0.02, np.arange(n)),
    ]
    trades = Trades.from_columns([BTC], columns)
    shard = ShardAggregator(exchange, Rules(partial=True, lateness_ns=LATENESS))
    shard.add(trades, "c1")
    bars = {clock: shard.seal(clock, END) for clock in ("exchange", "true")}
    why = Exclusions(exchange, LATENESS)
    codes = []
    for start in range(0, 600, 50):
        end = (MIDNIGHT + start + 50) * NS
        inside = (local >= end - 50 * NS) & (local < end)
        codes += why.add(trades.take(inside), end)
    codes += why.close()
    for clock, stamps in (("exchange", exchange_ts), ("true", local)):
        counted: dict[int, int] = {}
        for batch in bars[clock]:
            if isinstance(batch, BarBatch) and (batch.dataset, batch.interval) == ("flow", "1s"):
                both = batch.columns["taker_buy_count"] + batch.columns["taker_sell_count"]
                counted |= dict(zip(batch.start.tolist(), both.tolist(), strict=True))
        code = np.concatenate([c[clock] for c in codes])
        assert len(code) == n
        seconds, counts = np.unique(stamps[code == 0] // NS, return_counts=True)
        assert dict(zip(seconds.tolist(), counts.tolist(), strict=True)) == counted, f"seed {seed}"
        assert {"duplicate", "not_a_trade"} <= {REASONS[c] for c in code}
