"""Faults of the data: what they do to a stream, and that a seed is a script."""

from collections.abc import Iterable

import orjson
import pytest

from ingest.simulator.data_faults import DataFaults, Fault, Throttle, shifted
from ingest.simulator.listings import BINANCE
from ingest.simulator.market import Event

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
KEY = "btcusdt@trade"


def stream(n: int, key: str = KEY, every_ns: int = SECOND) -> list[Event]:
    return [(START + i * every_ns, key, b"%d" % i) for i in range(n)]


def pushed(faults: DataFaults, events: Iterable[Event]) -> list[int]:
    """The numbers of the events in the order in which they go out."""
    out: list[Event] = []
    for event in events:
        out += faults.released(BINANCE, event[0])
        out += faults.pushed(BINANCE, event, event[0] - START)
    out += faults.released(BINANCE, START + 10_000 * SECOND)
    return [int(frame) for _, _, frame in out]


def test_without_faults_everything_goes_out_in_order() -> None:
    assert pushed(DataFaults(1, []), stream(5)) == [0, 1, 2, 3, 4]


def test_drops_are_in_a_row_and_counted() -> None:
    faults = DataFaults(1, [Fault("drop", chance=0.02, n=5)])
    out = pushed(faults, stream(1_000))
    lost = sorted(set(range(1_000)) - set(out))
    assert faults.struck["drop"] == len(lost) > 30
    runs = [i for i in lost if i - 1 not in lost]
    assert all({r, r + 1, r + 2, r + 3, r + 4} <= {*lost, *range(1_000, 1_005)} for r in runs)


def test_a_window_silences_the_matching_streams_only() -> None:
    faults = DataFaults(1, [Fault("drop", "*@trade", between=(3, 6))])
    assert pushed(faults, stream(8)) == [0, 1, 2, 6, 7]
    assert pushed(faults, stream(8, "btcusdt@bookTicker")) == list(range(8))


def test_duplicates() -> None:
    assert pushed(DataFaults(1, [Fault("duplicate", n=2)]), stream(2)) == [0, 0, 0, 1, 1, 1]


def test_reorders_within_k_and_loses_nothing() -> None:
    faults = DataFaults(1, [Fault("reorder", chance=0.2, n=3)])
    out = pushed(faults, stream(500, every_ns=SECOND // 100))
    assert sorted(out) == list(range(500))
    assert out != sorted(out)
    # Behind at most three others, which may wait themselves.
    assert all(abs(place - number) <= 12 for place, number in enumerate(out))


def test_a_delayed_event_comes_later() -> None:
    faults = DataFaults(1, [Fault("delay", between=(2, 3), by_s=2.5)])
    assert pushed(faults, stream(7)) == [0, 1, 3, 4, 2, 5, 6]


def test_an_event_that_nothing_overtakes_goes_after_a_second() -> None:
    faults = DataFaults(1, [Fault("reorder", "*@trade", between=(2, 3), n=3)])
    others = stream(5, "x@bookTicker")[2:]
    assert pushed(faults, [*stream(3), *others]) == [0, 1, 2, 2, 3, 4]
    faults = DataFaults(1, [Fault("reorder", "*@trade", between=(2, 3), n=3)])
    assert pushed(faults, stream(3)) == [0, 1, 2]


@pytest.mark.parametrize("by_s", [-3.0, 0.25])
def test_shifts_move_exchange_stamps_alone(by_s: float) -> None:
    frame = b'{"E":1791269849801,"T":1791269849651,"t":8149080393123,"ts":"1781416584831"}'
    _, _, moved = shifted((START, KEY, frame), round(by_s * 1_000))
    body, was = orjson.loads(moved), orjson.loads(frame)
    assert body["E"] - was["E"] == body["T"] - was["T"] == by_s * 1_000
    assert int(body["ts"]) - int(was["ts"]) == by_s * 1_000
    assert body["t"] == was["t"]


def test_a_shift_is_the_venues_own_stamp_and_no_fault_of_what_is_pushed() -> None:
    frame = b'{"T":1791269849651,"t":8}'
    faults = DataFaults(1, [Fault("shift", KEY, between=(1, 2), by_s=-3.0), Fault("drop", "other")])
    event = (START, KEY, frame)
    assert faults.stamped(BINANCE, event, SECOND) == shifted(event, -3_000)
    assert faults.stamped(BINANCE, event, 2 * SECOND) == event
    assert faults.pushed(BINANCE, event, SECOND) == [event]
    assert faults.struck == {"shift": 1}


def test_a_seed_is_a_script_for_each_stream() -> None:
    faults = [Fault("drop", chance=0.1, n=2), Fault("duplicate", chance=0.1)]
    alone = pushed(DataFaults(5, faults), stream(200))
    other = DataFaults(5, faults)
    mixed: list[Event] = []
    for a, b in zip(stream(200), stream(200, "y@trade"), strict=True):
        other.pushed(BINANCE, b, b[0] - START)
        mixed += other.pushed(BINANCE, a, a[0] - START)
    assert [int(frame) for _, _, frame in mixed] == alone
    assert pushed(DataFaults(6, faults), stream(200)) != alone


def test_throttles_come_with_their_chance() -> None:
    faults = DataFaults(1, [], [Throttle(418, 0.0, 9.0), Throttle(429, 0.5, 1.0)])
    found = [faults.throttled("/info") for _ in range(400)]
    assert {t.status for t in found if t} == {429}
    assert 150 < faults.struck["429"] < 250
