"""REST bodies of three venues, broken: instrument lists, pages of history, clocks, kept lists.

A body that is no JSON is refused where it is decoded, before any of these.
"""

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from ingest import clock_offset, instrument_cache
from ingest.batches import Universe, trades_batch
from ingest.gaps import Gap, last_trades
from ingest.history import BadAnswer, walk
from ingest.instruments import BINANCE, HYPERLIQUID, OKX, listed_from
from ingest.universe import InstrumentList
from ingest.venues.common import TRADE_ROW
from tests.ingest.fuzzing import EXAMPLES, changed, fuzz, readable
from tests.ingest.payloads import LISTS, PAGES

NS = 1_000_000


def body_of(payload: bytes) -> object:
    """As `httpx` bodies are decoded; None for what is no JSON."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None


@pytest.mark.parametrize("exchange", list(LISTS))
@EXAMPLES
def test_instrument_lists(exchange: str, examples: int) -> None:
    def check(payload: bytes) -> None:
        try:
            listed, problems = listed_from(exchange, body_of(payload))
        except ValueError as error:
            readable(error)
            return
        assert all(len(problem) < 700 for problem in problems)
        unique = {item.instrument.native: item.instrument for item in listed}
        unique = {instrument.symbol: instrument for instrument in unique.values()}
        sizes = Universe(list(unique.values())).contract_size
        assert ((sizes > 0) & (sizes < float("inf"))).all()
        assert all(isinstance(item.trading, bool) for item in listed)

    fuzz(examples, changed(LISTS[exchange]), check)


def gap(exchange: str, aggregates: bool) -> Gap:
    ids = None if exchange == HYPERLIQUID else (27_781, 28_457)
    return Gap(
        symbol="perpetual-BTC-USDT:USDT",
        kind="fills" if ids is None else "ids",
        first_missing=ids and ids[0],
        last_missing=ids and ids[1],
        missing=ids and ids[1] - ids[0] + 1,
        reason="sequence",
        exchange_ts=1_789_893_896_000 * NS,
        exchange_to=1_789_893_897_000 * NS,
        local_ts=1_789_893_897_100 * NS,
        aggregates=(26_129, 26_140) if aggregates else None,
    )


@pytest.mark.parametrize(
    ("page", "exchange", "trades", "aggregates"),
    [
        ("trades", BINANCE, True, False),
        ("aggregates", BINANCE, True, True),
        ("aggregates", BINANCE, False, False),
        ("okx", OKX, True, False),
        ("hyperliquid", HYPERLIQUID, True, False),
    ],
)
@EXAMPLES
def test_pages_of_history(
    page: str, exchange: str, trades: bool, aggregates: bool, examples: int
) -> None:
    def check(payload: bytes) -> None:
        steps = walk(exchange, "BTC", gap(exchange, aggregates), trades=trades)
        assert steps.next() is not None
        try:
            prints = steps.take(body_of(payload))
        except BadAnswer as error:
            readable(error)
            return
        # What the session does with them.
        rows = [
            TRADE_ROW.pack(0, p.exchange_ms, 1, p.id, p.count, p.side, p.price, p.size, 2, 0, i)
            for i, p in enumerate(prints)
        ]
        found = trades_batch(Universe([]), rows) if not rows else None
        assert found is None or len(found) == 0
        assert all(0 < p.count < 1 << 31 for p in prints)
        assert isinstance(steps.why(), str)
        steps.next()

    fuzz(examples, changed([PAGES[page]]), check)


@pytest.mark.parametrize(("page", "exchange"), [("trades", BINANCE), ("okx", OKX)])
@EXAMPLES
def test_last_trades(page: str, exchange: str, examples: int) -> None:
    def check(payload: bytes) -> None:
        steps = walk(exchange, "BTC", last_trades("perpetual-BTC-USDT:USDT", 27_781, 1, 2))
        try:
            assert steps.take(body_of(payload)) == []
        except BadAnswer as error:
            readable(error)
            return
        assert isinstance(steps.why(), str)
        request = steps.next()
        assert request is None or "trades" in request.path.lower()

    fuzz(examples, changed([PAGES[page]]), check)


@pytest.mark.parametrize(
    ("exchange", "seed"),
    [
        (BINANCE, b'{"serverTime":1789893896920}'),
        (OKX, b'{"code":"0","data":[{"ts":"1597026383085"}],"msg":""}'),
    ],
)
@EXAMPLES
def test_clocks(exchange: str, seed: bytes, examples: int) -> None:
    def check(payload: bytes) -> None:
        try:
            assert isinstance(clock_offset._milliseconds(exchange, body_of(payload)), float)
        except clock_offset.NO_TIME:
            return

    fuzz(examples, changed([seed]), check)


def of_file(path: Path, check: Callable[[Path], None]) -> Callable[[bytes], None]:
    def written(payload: bytes) -> None:
        path.write_bytes(payload)
        check(path)

    return written


@EXAMPLES
def test_kept_lists(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    listed, _ = listed_from(OKX, orjson.loads(LISTS[OKX][0]))
    instrument_cache.save(path, InstrumentList(OKX, "http://x", ("",), 1, tuple(listed)))
    seeds = [path.read_bytes(), orjson.dumps(orjson.loads(path.read_bytes()))]

    def check(path: Path) -> None:
        kept = instrument_cache.load(path, OKX, "http://x", ("",))
        if kept is not None:
            assert all(item.instrument.contract_size > 0 for item in kept.listed)
            assert all(isinstance(item.trading, bool) for item in kept.listed)

    fuzz(examples, changed(seeds), of_file(path, check))
