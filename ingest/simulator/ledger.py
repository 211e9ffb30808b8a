"""The simulated venue's own book of trades: what its REST history lists, and what tests compare.

Every trade the market has made so far is in it, whatever faults its streams suffered. Pure.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from ingest.simulator.listings import BINANCE, HYPERLIQUID, OKX
from ingest.simulator.market import Event

KEPT_FRAMES = 20_000
"""Frames of a stream that have not been asked for, and trades that have, are kept this many."""
RECENT_FILLS = 50

Answer = tuple[int, bytes]


class Ledger:
    """The trades of one venue; `add` takes each event of its feed as it happens."""

    def __init__(self, exchange: str) -> None:
        self._exchange = exchange
        channels = {
            BINANCE: ("trade", "aggTrade"),
            OKX: ("trades-all",),
            HYPERLIQUID: ("trades",),
        }
        self._channels = frozenset(channels[exchange])
        self._frames: dict[str, list[bytes]] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {}

    def add(self, event: Event) -> None:
        _, key, frame = event
        binance = self._exchange == BINANCE
        channel = key.rpartition("@")[2] if binance else key.partition(":")[0]
        if channel in self._channels:
            frames = self._frames.setdefault(key, [])
            frames.append(frame)
            if len(frames) > KEPT_FRAMES:
                self.trades(key)
                frames.clear()

    def trades(self, key: str) -> list[dict[str, Any]]:
        """The trades of a stream, as pushed, oldest first."""
        rows = self._rows.setdefault(key, [])
        frames = self._frames.get(key, [])
        for frame in frames:
            data = orjson.loads(frame)["data"]
            rows += data if isinstance(data, list) else [data]
        frames.clear()
        if len(rows) > 2 * KEPT_FRAMES:
            del rows[:-KEPT_FRAMES]
        return rows

    def streams(self) -> set[str]:
        """The streams that trades were pushed on."""
        return {*self._frames, *self._rows}

    def answer(self, path: str, query: Mapping[str, str]) -> Answer | None:
        """The answer to a request for history; None if the venue has no such path."""
        lists: dict[tuple[str, str], Callable[[Mapping[str, str]], object]] = {
            (BINANCE, "/fapi/v1/historicalTrades"): self._historical_trades,
            (BINANCE, "/fapi/v1/trades"): self._historical_trades,
            (BINANCE, "/fapi/v1/aggTrades"): self._aggregates,
            (OKX, "/api/v5/market/history-trades"): self._history_trades,
            (HYPERLIQUID, "/info"): self._recent,
        }
        found = lists.get((self._exchange, path))
        if found is None:
            return None
        try:
            return 200, orjson.dumps(found(query))
        except (KeyError, ValueError) as error:
            return 400, orjson.dumps({"code": -1102, "msg": f"Mandatory parameter: {error}"})

    def _historical_trades(self, query: Mapping[str, str]) -> object:
        rows = self.trades(f"{query['symbol'].lower()}@trade")
        limit = min(int(query.get("limit", "100")), 500)
        market = [r for r in _from(rows, "t", query.get("fromId")) if r["X"] == "MARKET"]
        chosen = market[:limit] if "fromId" in query else market[-limit:]
        return [
            {
                "id": r["t"],
                "price": r["p"],
                "qty": r["q"],
                "quoteQty": f"{float(r['p']) * float(r['q']):.2f}",
                "time": r["T"],
                "isBuyerMaker": r["m"],
                "isRPITrade": False,
            }
            for r in chosen
        ]

    def _aggregates(self, query: Mapping[str, str]) -> object:
        rows = self.trades(f"{query['symbol'].lower()}@aggTrade")
        limit = min(int(query.get("limit", "500")), 1_000)
        chosen = _from(rows, "a", query.get("fromId"))
        if "startTime" in query:
            first, last = int(query["startTime"]), int(query.get("endTime", 1 << 60))
            chosen = [r for r in chosen if first <= r["T"] <= last]
        up = "fromId" in query or "startTime" in query
        names = ("a", "p", "q", "nq", "f", "l", "T", "m")
        return [{n: r[n] for n in names} for r in (chosen[:limit] if up else chosen[-limit:])]

    def _history_trades(self, query: Mapping[str, str]) -> object:
        if query.get("type", "1") != "1":
            return {"code": "51000", "data": [], "msg": "Parameter type error"}
        rows = self.trades(f"trades-all:{query['instId']}")
        limit = min(int(query.get("limit", "100")), 100)
        low = bisect_left(rows, int(query.get("before", "-1")) + 1, key=_okx_id)
        high = bisect_left(rows, int(query.get("after", 1 << 62)), key=_okx_id)
        return {"code": "0", "data": rows[low:high][: -limit - 1 : -1], "msg": ""}

    def _recent(self, query: Mapping[str, str]) -> object:
        return self.trades(f"trades:{query['coin']}")[: -RECENT_FILLS - 1 : -1]


def _okx_id(row: dict[str, Any]) -> int:
    return int(row["tradeId"])


def _from(rows: list[dict[str, Any]], name: str, first: str | None) -> list[dict[str, Any]]:
    return rows if first is None else rows[bisect_left(rows, int(first), key=lambda r: r[name]) :]
