"""Hypothesis strategies for tick streams: disorder, copies, lateness, bursts, empties."""

from hypothesis import strategies as st

NS = 10**9
BASE = 1_709_251_190  # 2024-02-29 23:59:50 UTC: leap day, month edge
EDGES = {
    "the epoch": 5,
    "a new year": 1_704_067_190,  # 2023-12-31 23:59:50
    "a year's first leap day": 1_709_164_790,  # 2024-02-28 23:59:50
    "no leap day in 2100": 4_107_542_390,  # 2100-02-28 23:59:50
    "a month of 30 days": 1_727_740_790,  # 2024-09-30 23:59:50
}
"""Seconds just before the calendar turns."""
SYMBOLS = ("perpetual-BTC-USDT:USDT", "perpetual-ETH-USDT:USDT")
PRICES = st.sampled_from([0.1, 1.0, 99.9, 100.0, 100.1, 64311.5, 1e-9, 1e12]) | st.floats(
    1e-3, 1e6, allow_nan=False
)
QTYS = st.sampled_from([0.001, 1.0, 1.5, 10.0, 1e9]) | st.floats(1e-6, 1e4)
SPANS = st.sampled_from([5, 40, 400, 4000, 100_000])


@st.composite
def trades(draw, max_size=40):
    """Unique trades with ids rising in exchange time, arriving with arbitrary delays."""
    n = draw(st.integers(0, max_size))
    span = draw(SPANS)
    out = []
    for symbol in SYMBOLS:
        stamps = sorted(draw(st.lists(st.integers(0, span * 1000), min_size=0, max_size=n)))
        last_id = draw(st.integers(1, 10**6))
        for row, ms in enumerate(stamps):
            count = draw(st.integers(1, 3))
            last_id += count + draw(st.sampled_from([0, 0, 0, 1, 7]))
            price, qty = draw(PRICES), draw(QTYS)
            exchange_ts = BASE * NS + ms * 10**6
            delay = draw(st.sampled_from([0, 1, 30, 400, 2500, 5500, 9000, -1500]))
            out.append(
                {
                    "symbol": symbol,
                    "exchange_ts": exchange_ts,
                    "local_ts": exchange_ts + delay * 10**6 + row,
                    "id": last_id,
                    "sequence": last_id,
                    "count": count,
                    "side": draw(st.sampled_from([1, -1])),
                    "price": price,
                    "qty": qty,
                    "notional": price * qty,
                    "origin": draw(st.sampled_from([0, 0, 0, 0, 1])),
                    "off_book": draw(st.sampled_from([0] * 9 + [1])),
                    "row": row,
                    "collector": "c1",
                    "identity": (symbol, last_id),
                }
            )
    return out


@st.composite
def quotes(draw, max_size=40):
    """Unique quotes with rising update numbers; either side may be absent or zero."""
    n = draw(st.integers(0, max_size))
    span = draw(SPANS)
    out = []
    side = st.tuples(PRICES, QTYS | st.just(0.0)) | st.just((float("nan"), float("nan")))
    for symbol in SYMBOLS:
        stamps = sorted(draw(st.lists(st.integers(0, span * 1000), min_size=0, max_size=n)))
        sequence, arrival = 10**9, 0
        for row, ms in enumerate(stamps):
            sequence += draw(st.integers(1, 50))
            (bid_price, bid_qty), (ask_price, ask_qty) = draw(side), draw(side)
            exchange_ts = BASE * NS + ms * 10**6
            delay = draw(st.sampled_from([0, 1, 30, 400, 2500]))
            arrival = max(arrival + 1, exchange_ts + delay * 10**6)
            out.append(
                {
                    "symbol": symbol,
                    "exchange_ts": exchange_ts,
                    "local_ts": arrival,
                    "sequence": sequence,
                    "bid_price": bid_price,
                    "bid_qty": bid_qty,
                    "ask_price": ask_price,
                    "ask_qty": ask_qty,
                    "origin": 0,
                    "row": row,
                    "collector": "c1",
                    "identity": (symbol, sequence),
                }
            )
    return out
