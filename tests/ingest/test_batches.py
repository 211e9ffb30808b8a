import math

import numpy as np
import pytest

from ingest.batches import Universe, quotes_batch, trades_batch
from ingest.instruments import OKX, Instrument, partition_of
from ingest.ticks import BACKLOG, SELL, Quotes, Trades, decode, encode
from ingest.venues import Row
from ingest.venues.common import QUOTE_ROW, TRADE_ROW
from tests.ingest.parsing import ARRIVAL, columns, instrument

LINEAR = instrument(OKX, "BTC-USDT-SWAP", contract_size=0.01)
INVERSE = instrument(OKX, "BTC-USD-SWAP", contract_size=100.0, inverse=True)
COIN = instrument(OKX, "DOGE-USDT-SWAP")
MS = ARRIVAL // 1_000_000


def trade_row(code: int, price: float, size: float, row: int = 0) -> Row:
    return TRADE_ROW.pack(code, MS, ARRIVAL, 2**62, 7, SELL, price, size, BACKLOG, 1, row)


def quote_row(code: int, bid: float, ask: float, size: float = 2.0) -> Row:
    return QUOTE_ROW.pack(code, MS, ARRIVAL, 2**62, bid, size, ask, size, 2**40)


def test_trades_in_base_and_quote_units() -> None:
    universe = Universe([LINEAR, INVERSE, COIN])
    rows = [trade_row(1, 50_000.0, 3.0, 5), trade_row(0, 50_000.0, 3.0), trade_row(2, 0.1, 3.0)]
    trades = trades_batch(universe, rows)
    assert columns(trades, ("code", "qty", "notional", "row")) == [
        (1, 300.0 / 50_000.0, 300.0, 5),
        (0, 0.03, 50_000.0 * 0.03, 0),
        (2, 3.0, 0.1 * 3.0, 0),
    ]
    first = trades.take(slice(0, 1))
    assert columns(
        first, ("exchange_ts", "local_ts", "id", "count", "side", "origin", "off_book")
    ) == [(MS * 1_000_000, ARRIVAL, 2**62, 7, -1, BACKLOG, 1)]


def test_a_price_of_zero_gives_no_inverse_quantity() -> None:
    trades = trades_batch(Universe([INVERSE]), [trade_row(0, 0.0, 3.0)])
    assert (trades.qty.tolist(), trades.notional.tolist()) == ([0.0], [300.0])


def test_quotes_in_base_units() -> None:
    universe = Universe([LINEAR, INVERSE, COIN])
    rows = [quote_row(0, 10.0, 11.0), quote_row(1, 10.0, 8.0), quote_row(2, 10.0, 11.0)]
    quotes = quotes_batch(universe, rows)
    assert columns(quotes, ("code", "bid_price", "bid_qty", "ask_price", "ask_qty")) == [
        (0, 10.0, 0.02, 11.0, 0.02),
        (1, 10.0, 20.0, 8.0, 25.0),
        (2, 10.0, 2.0, 11.0, 2.0),
    ]
    assert quotes.sequence.tolist() == [2**62] * 3
    assert quotes.row.tolist() == [2**40] * 3


@pytest.mark.parametrize("contract", [LINEAR, INVERSE, COIN])
def test_a_side_without_a_price_is_empty(contract: Instrument) -> None:
    rows = [quote_row(0, math.nan, 11.0), quote_row(0, 10.0, 0.0)]
    quotes = quotes_batch(Universe([contract]), rows)
    assert np.isnan(quotes.bid_price).tolist() == [True, False]
    assert np.isnan(quotes.bid_qty).tolist() == [True, False]
    assert np.isnan(quotes.ask_price).tolist() == [False, True]
    assert np.isnan(quotes.ask_qty).tolist() == [False, True]


def test_batches_are_encodable_and_empty_ones_too() -> None:
    universe = Universe([LINEAR, COIN])
    trades = trades_batch(universe, [trade_row(1, 2.0, 3.0)])
    again = decode(Trades, encode(trades))
    assert list(again.symbols) == [COIN.symbol]
    assert again.qty.tolist() == [3.0]
    assert len(decode(Trades, encode(trades_batch(universe, [])))) == 0
    assert len(decode(Quotes, encode(quotes_batch(universe, [])))) == 0


def test_columns_have_the_schemas_types_and_outlive_the_rows() -> None:
    universe = Universe([LINEAR])
    for batch in (
        trades_batch(universe, [trade_row(0, 1.0, 1.0)]),
        quotes_batch(universe, [quote_row(0, 1.0, 2.0)]),
    ):
        expected = type(batch).from_columns(universe.symbols, [[0]] * len(batch.schema))
        assert [c.dtype for c in batch.columns()] == [c.dtype for c in expected.columns()]
        assert all(c.flags.c_contiguous and c.flags.writeable for c in batch.columns())


def test_routes_lead_to_the_instruments_partition() -> None:
    instruments = [instrument(OKX, f"C{i}-USDT-SWAP") for i in range(20)]
    universe = Universe(instruments)
    trades: list[list[Row]] = [[] for _ in range(4)]
    quotes: list[list[Row]] = [[] for _ in range(4)]
    for route in universe.routes(trades, quotes).values():
        route.trade(bytes([route.code]))
        route.quote(bytes([route.code]))
    assert trades == quotes
    for code, contract in enumerate(instruments):
        assert bytes([code]) in trades[partition_of(OKX, contract.symbol, 4)]
    with pytest.raises(ValueError, match="4 trade lists but 1 quote lists"):
        universe.routes(trades, quotes[:1])


def test_a_universe_is_one_exchange_without_doubles() -> None:
    with pytest.raises(ValueError, match="same native: BTC-USDT-SWAP"):
        Universe([LINEAR, LINEAR])
    twin = Instrument(OKX, "OTHER", LINEAR.symbol)
    with pytest.raises(ValueError, match=f"same symbol: {LINEAR.symbol}"):
        Universe([LINEAR, twin])
    with pytest.raises(ValueError, match="of one exchange"):
        Universe([LINEAR, instrument("binance-futures", "BTCUSDT")])
    assert trades_batch(Universe([]), []).symbols == []
