"""Websocket frames of three venues, broken: a parser never raises, counts all, and stays small."""

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import strategies as st

from ingest.batches import Universe, quotes_batch, trades_batch
from ingest.instruments import BINANCE, OKX
from ingest.venues import Frame, Notice, ParseReport, ParserState, Row, venue
from tests.ingest.fuzzing import EXAMPLES, changed, fuzz
from tests.ingest.parsing import ARRIVAL, instrument
from tests.ingest.payloads import FRAMES, INSTRUMENTS

VENUES = pytest.mark.parametrize("exchange", list(FRAMES))

Parsed = tuple[list[Row], list[Row], ParseReport]


def parse(exchange: str, payloads: list[bytes], together: bool) -> Parsed:
    """Rows and report of the payloads as one read, or each as its own."""
    universe = Universe([instrument(exchange, INSTRUMENTS[exchange])])
    trades: list[Row] = []
    quotes: list[Row] = []
    routes = universe.routes([trades], [quotes])
    report, state = ParseReport(aggregates=[]), ParserState()
    frames: list[Frame] = [(ARRIVAL, payload) for payload in payloads]
    row = 0
    for part in [frames] if together else [[frame] for frame in frames]:
        row = venue(exchange).parse(part, routes, row, report, state)
    assert row == len(trades) + len(quotes) == report.trades + report.quotes
    # Every row becomes a column's value, in units, without a warning.
    assert len(trades_batch(universe, trades)) + len(quotes_batch(universe, quotes)) == row
    return trades, quotes, report


def check_of(exchange: str) -> Callable[[list[bytes]], None]:
    def check(payloads: list[bytes]) -> None:
        trades, quotes, report = parse(exchange, payloads, together=True)
        assert parse(exchange, payloads, together=False) == (trades, quotes, report)
        assert report.frames == len(payloads)
        counted = report.ignored + len(report.notices) + report.malformed.total()
        assert len(trades) + len(quotes) + counted + report.unknown.total() >= len(payloads) - sum(
            map(_empty_data, payloads)
        )
        assert len(report.malformed) < 40
        assert all(len(reason) < 60 for reason in report.malformed)
        assert all(len(name) <= 100 for name in report.unknown)
        assert all(len(text) <= 200 for _, text in report.examples.values())
        assert all(len(n.text) + len(n.native) + len(n.channel) < 2_500 for n in report.notices)

    return check


def _empty_data(payload: bytes) -> bool:
    """Whether a frame may say nothing at all: a push without rows."""
    return b'"data"' in payload


@VENUES
@EXAMPLES
def test_frames(exchange: str, examples: int) -> None:
    frames = st.lists(changed(FRAMES[exchange]) | st.sampled_from(FRAMES[exchange]), max_size=6)
    fuzz(examples, frames, check_of(exchange))


@VENUES
def test_what_is_remembered_is_bounded(exchange: str) -> None:
    """A venue that sends ever new names, all of them long, costs a few hundred kB."""
    [name] = [INSTRUMENTS[exchange].encode()]
    long = b"Z" * 20_000
    frames = [
        (ARRIVAL, payload.replace(name, b"%d" % i + long))
        for i in range(400)
        for payload in FRAMES[exchange]
    ]
    routes = Universe([instrument(exchange, name.decode())]).routes([[]], [[]])
    report, state = ParseReport(), ParserState()
    parse_some = venue(exchange).parse
    parse_some(frames[:10], routes, 0, report, state)
    tracemalloc.start()
    for at in range(0, len(frames), 64):
        parse_some(frames[at : at + 64], routes, 0, report, state)
        report.notices.clear()  # as a session does
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1 << 20


def test_a_hostile_error_text_is_read_at_once() -> None:
    """The name of a refused subscription is looked for in a text of bounded length only."""
    text = b"channel:a,instId:" * 200_000
    frame = b'{"event":"error","code":"1","msg":"%b"}' % text
    _, _, report = parse(OKX, [frame], together=True)
    assert [type(n) for n in report.notices] == [Notice]


def test_halves_of_frames_never_pass_for_whole_ones() -> None:
    """Two that are no JSON alone, and are as one array with what is put between them."""
    whole = FRAMES[BINANCE][0]
    halves = [b'{"data":{"e":"x","s":[1', b"2]}}", whole + b",0," + whole]
    trades, quotes, report = parse(BINANCE, [*halves, whole], together=True)
    assert (len(trades), len(quotes)) == (1, 0)
    assert report.malformed == {"not JSON": 3}
