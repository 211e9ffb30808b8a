"""Which months there are, and of what times an archive has ticks."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from aggregate.intervals import DAY, NS
from aggregate.shard import Rules
from publish.replay.plan import archived_units
from publish.replay.ticks_in import Area
from publish.settings import PublishSettings
from publish.store import Store
from tests.publish.replay.raw_archives import Seeded, day_start, seeded, write_archive

RULES = Rules(lateness_ns=None)
BTC, ETH = "perpetual-BTC-USDT:USDT", "perpetual-ETH-USDT:USDT"
DAYS = [date(2026, 9, 28) + timedelta(days=i) for i in range(5)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path}")


def last(*made: Seeded) -> int:
    return max(int(ticks.local_ts.max()) for of in made for ticks in of.ticks.values())


def test_months_of_instruments_and_days_in_a_row(store: Store) -> None:
    btc = seeded(1, "okx-perps", BTC, DAYS, 50, stragglers=0)
    eth = seeded(1, "okx-perps", ETH, DAYS[:2], 50, stragglers=0)
    other = seeded(1, "binance-futures", BTC, DAYS[4:], 50, stragglers=0)
    write_archive(store, [btc, eth, other], leave_out=[DAYS[2]])
    units = archived_units(Area(PublishSettings(url=store.url)), RULES)
    assert [(u.exchange, u.symbol, u.month) for u in units] == [
        ("binance-futures", BTC, 10),
        ("okx-perps", BTC, 9),
        ("okx-perps", BTC, 10),
        ("okx-perps", ETH, 9),
    ]
    first, hole, again = (day_start(DAYS[i]) * NS for i in (0, 2, 3))
    spans = ((first, hole), (again, last(btc)))
    assert [u.spans for u in units[1:]] == [spans] * 3
    assert units[0].spans == ((day_start(DAYS[4]) * NS, last(other)),)


def test_days_that_are_not_over_count(store: Store) -> None:
    btc = seeded(1, "okx-perps", BTC, DAYS, 50, stragglers=0)
    write_archive(store, [btc], opened=DAYS[2])
    units = archived_units(Area(PublishSettings(url=store.url)), RULES)
    assert [u.month for u in units] == [9, 10]
    assert units[0].spans == ((day_start(DAYS[0]) * NS, last(btc)),)
    assert units[0].end - units[0].begin == 30 * DAY
