"""The plain reference: sort unique ticks, group by window, formula by formula. Slow and obvious.

Takes ticks as lists of dicts and returns {(symbol, interval, clock): {time_s: {column: value}}};
None stands for null. It shares no code with `aggregate`.
"""

import math
from collections import defaultdict
from datetime import UTC, datetime
from itertools import pairwise

SECONDS = {
    "1s": 1, "15s": 15, "30s": 30, "1m": 60, "5m": 300, "15m": 900, "30m": 1800,
    "1h": 3600, "4h": 14400, "1d": 86400,
}  # fmt: skip
NS = 10**9
SIZES = ("small", "medium", "large")


def unique(ticks, clock, ordered):
    """Ticks of one clock in canonical order, one of each identity."""
    kept, seen = [], set()
    for tick in sorted(ticks, key=lambda t: _order(t, clock, ordered)):
        if clock == "true" and tick["origin"] != 0:
            continue
        if tick["identity"] not in seen:
            seen.add(tick["identity"])
            kept.append(tick)
    return kept


def _order(tick, clock, ordered):
    arrival = (tick["local_ts"], tick["collector"], tick["row"])
    if clock == "true":
        return arrival
    return (tick["exchange_ts"], tick["sequence"] if ordered else 0, *arrival)


def is_late(tick, lateness_s):
    """Late or from the future: in no exchange bar."""
    end = (tick["exchange_ts"] // NS + 1) * NS
    late = lateness_s is not None and tick["local_ts"] >= end + lateness_s * NS
    return late or tick["exchange_ts"] > tick["local_ts"] + 60 * NS


def windows(ticks, clock, seconds):
    """{window start (s): ticks}, ticks in the order given."""
    out = defaultdict(list)
    for tick in ticks:
        stamp = tick["exchange_ts" if clock == "exchange" else "local_ts"]
        out[stamp // NS // seconds * seconds].append(tick)
    return dict(sorted(out.items()))


def div(a, b):
    return None if b == 0 else a / b


def ohlcv(trades):
    prices = [t["price"] for t in trades]
    return {
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": math.fsum(t["qty"] for t in trades),
        "volume_notional": math.fsum(t["notional"] for t in trades),
    }


def _entropy(p):
    if p is None:
        return None
    return -math.fsum(x * math.log(x) for x in (p, 1 - p) if x > 0)


def _size(notional):
    return "small" if notional < 100 else "medium" if notional < 1000 else "large"


def realized_vol(trades):
    prices = [t["price"] for t in trades]
    return math.sqrt(math.fsum((b / a - 1) ** 2 for a, b in pairwise(prices)))


def flow(trades):
    """All columns but the score."""
    side = {1: "buy", -1: "sell"}
    of = {"buy": [], "sell": []}
    for t in trades:
        of[side[t["side"]]].append(t)
    qty = {s: math.fsum(t["qty"] for t in of[s]) for s in of}
    count = {s: sum(t["count"] for t in of[s]) for s in of}
    notional = {s: math.fsum(t["notional"] for t in of[s]) for s in of}
    share = div(qty["buy"], qty["buy"] + qty["sell"])
    out = {
        "taker_buy_volume": qty["buy"],
        "taker_sell_volume": qty["sell"],
        "taker_buy_count": count["buy"],
        "taker_sell_count": count["sell"],
        "volume_delta": qty["buy"] - qty["sell"],
        "volume_delta_notional": notional["buy"] - notional["sell"],
        "flow_entropy": _entropy(share),
        "flow_toxicity_score": None,
        "taker_buy_sell_ratio": div(qty["buy"], qty["sell"]),
        "taker_buy_sell_count_ratio": div(count["buy"], count["sell"]),
        "taker_buy_sell_percentage": share,
        "taker_buy_sell_count_percentage": div(count["buy"], count["buy"] + count["sell"]),
    }
    for s in of:
        for size in SIZES:
            picked = [t for t in of[s] if _size(t["notional"]) == size]
            label = f"taker_{s}_{size}_order"
            out[f"{label}_volume"] = math.fsum(t["notional"] for t in picked)
            out[f"{label}_count"] = sum(t["count"] for t in picked)
            out[f"{label}_percentage"] = div(out[f"{label}_volume"], qty[s])
            out[f"{label}_count_percentage"] = div(out[f"{label}_count"], count[s])
    return out


def _z(values):
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return None if std == 0 else (values[-1] - mean) / std


def add_scores(bars, volatility, reset="month"):
    """flow_toxicity_score over the series' bars of a calendar month (or day) so far."""
    history = defaultdict(lambda: ([], []))
    for start, bar in bars.items():
        day = datetime.fromtimestamp(start, UTC)
        key = (day.year, day.month, day.day if reset == "day" else 0)
        deltas, vols = history[key]
        deltas.append(bar["volume_delta_notional"])
        vols.append(volatility[start])
        z = _z(deltas), _z(vols)
        bar["flow_toxicity_score"] = None if None in z else z[0] * z[1]


def l1_imbalance(quotes):
    def figures(b, a):
        return {
            "imbalance": b - a,
            "imbalance_ratio": div(b - a, b + a),
            "bid_ask_ratio": div(b, a),
            "bid_percentage": div(b, b + a),
            "ask_percentage": div(a, b + a),
        }

    names = list(figures(1.0, 1.0))
    two_sided = [
        figures(q["bid_qty"], q["ask_qty"])
        for q in quotes
        if not math.isnan(q["bid_qty"]) and not math.isnan(q["ask_qty"])
    ]
    out = dict(two_sided[-1]) if two_sided else dict.fromkeys(names)
    for name in names:
        defined = [f[name] for f in two_sided if f[name] is not None]
        out[f"{name}_avg"] = div(math.fsum(defined), len(defined))
    return out


def _mean(values):
    """Of the defined values; null without one."""
    defined = [v for v in values if v is not None]
    return div(math.fsum(defined), len(defined))


def _has(quote, *sides):
    return not any(math.isnan(quote[f"{side}_qty"]) for side in sides)


def _last(quotes, *sides):
    """The last update that has these sides, None without one."""
    return next((q for q in reversed(quotes) if _has(q, *sides)), None)


def l1_liquidity(quotes):
    both = {
        "spread": lambda q: q["ask_price"] - q["bid_price"],
        "spread_bps": lambda q: _bps(q["ask_price"] - q["bid_price"], _mid(q)),
        "spread_depth_ratio": lambda q: div(
            q["ask_price"] - q["bid_price"], q["bid_qty"] + q["ask_qty"]
        ),
        "total_depth": lambda q: q["bid_qty"] + q["ask_qty"],
        "total_dollar_depth": lambda q: _dollars(q, "bid") + _dollars(q, "ask"),
    }
    last = _last(quotes, "bid", "ask")
    out = {name: last and formula(last) for name, formula in both.items()}
    for name, formula in both.items():
        out[f"{name}_avg"] = _mean(formula(q) for q in quotes if _has(q, "bid", "ask"))
    for side in ("bid", "ask"):
        own = last or _last(quotes, side)
        out[f"dollar_depth_{side}"] = own and _dollars(own, side)
        out[f"dollar_depth_{side}_avg"] = _mean(_dollars(q, side) for q in quotes if _has(q, side))
    return out


def _mid(quote):
    return (quote["bid_price"] + quote["ask_price"]) / 2


def _bps(spread, mid):
    return None if mid == 0 else spread / mid * 1e4


def _dollars(quote, side):
    return quote[f"{side}_price"] * quote[f"{side}_qty"]


def l1_price(quotes, clock, start, seconds):
    last = _last(quotes, "bid", "ask")
    out = {"midprice": None, "weighted_midprice": None}
    if last:
        bid, ask, b, a = (last[n] for n in ("bid_price", "ask_price", "bid_qty", "ask_qty"))
        out = {"midprice": (bid + ask) / 2, "weighted_midprice": div(bid * a + ask * b, b + a)}
    stamp = "exchange_ts" if clock == "exchange" else "local_ts"
    ends = [*(q[stamp] for q in quotes[1:]), (start + seconds) * NS]
    for side in ("bid", "ask"):
        own = last or _last(quotes, side)
        out[f"{side}_price"] = own and own[f"{side}_price"]
        out[f"{side}_amount"] = own and own[f"{side}_qty"]
        stood = [
            (q[f"{side}_price"], end - q[stamp])
            for q, end in zip(quotes, ends, strict=True)
            if _has(q, side)
        ]
        out[f"{side}_price_twap"] = div(
            math.fsum(p * ns for p, ns in stood), sum(n for _, n in stood)
        )
        there = [q for q in quotes if _has(q, side)]
        out[f"{side}_price_vwap"] = div(
            math.fsum(_dollars(q, side) for q in there), math.fsum(q[f"{side}_qty"] for q in there)
        )
    out["quote_update_frequency"] = len(quotes) / seconds
    out["avg_update_interval"] = seconds / len(quotes)
    return out


def vtwap(trades):
    fills = [t["price"] for t in trades for _ in range(t["count"])]
    return {
        "vwap": math.fsum(t["notional"] for t in trades) / math.fsum(t["qty"] for t in trades),
        "twap": math.fsum(fills) / len(fills),
    }


def bars(trades, quotes, *, ordered=True, lateness_s=None, reset="month"):
    """Every bar: {(dataset, symbol, interval, clock): {start_s: columns}}."""
    out = {}
    for clock in ("exchange", "true"):
        for kind, ticks in (("trades", trades), ("quotes", quotes)):
            by_symbol = defaultdict(list)
            for tick in ticks:
                real = kind == "quotes" or (
                    not tick["off_book"] and tick["price"] > 0 and tick["qty"] > 0
                )
                if real and not (clock == "exchange" and is_late(tick, lateness_s)):
                    by_symbol[tick["symbol"]].append(tick)
            for symbol, own in by_symbol.items():
                kept = unique(own, clock, ordered)
                for interval, seconds in SECONDS.items():
                    grouped = windows(kept, clock, seconds)
                    if not grouped:
                        continue
                    if kind == "quotes":
                        for formula in (l1_imbalance, l1_liquidity):
                            made = {w: formula(ts) for w, ts in grouped.items()}
                            out[formula.__name__, symbol, interval, clock] = made
                        out["l1_price", symbol, interval, clock] = {
                            w: l1_price(ts, clock, w, seconds) for w, ts in grouped.items()
                        }
                        continue
                    flows = {w: flow(ts) for w, ts in grouped.items()}
                    add_scores(flows, {w: realized_vol(ts) for w, ts in grouped.items()}, reset)
                    out["flow", symbol, interval, clock] = flows
                    for formula in (ohlcv, vtwap):
                        made = {w: formula(ts) for w, ts in grouped.items()}
                        out[formula.__name__, symbol, interval, clock] = made
    return out
