"""Gaps in the trades of a symbol: what one is, and what is left of it. Pure."""

from dataclasses import dataclass, replace

from ingest.records import OPEN, GapRecord

IDS, FILLS = "ids", "fills"
"""Kinds of gap: trade ids from–to, or fills of unknown number between two times (Hyperliquid, and
symbols of which no trade was seen before, or none comes after)."""
SEQUENCE, DISCONNECT, RESTART, STRADDLE = "sequence", "disconnect", "restart", "straddle"
DELISTED = "delisted"
"""Reasons: a jump while connected, or over a reconnect, or over a restart of the collector, or the
new part of an aggregate whose other part was seen as single trades, or the end of a symbol: no
trade behind its last says whether that was the last."""
SKIPPED, UNLISTED = "skipped", "unlisted"
"""Reasons in imported archives: rows were there that can't be read; or the archive lists market
prints only, so that nobody knows whether the ids are of trades."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Trades of `symbol` that did not arrive.

    Of kind `ids`: those with first_missing ≤ id ≤ last_missing, `missing` of them at most (ids of
    rows that are no market prints may be among them). Of kind `fills`: an unknown number (None)
    between `exchange_ts`, the venue's time (ns) of the last good tick before, and `exchange_to`,
    of the first after; of a delisted symbol ids from `first_missing` on, if any, until then.
    `local_ts` is when that one arrived. `aggregates` are the first and last
    aggregate (Binance `a`) that are missing, where the gap is one of aggregates.
    """

    symbol: str
    kind: str
    first_missing: int | None
    last_missing: int | None
    missing: int | None
    reason: str
    exchange_ts: int
    exchange_to: int
    local_ts: int
    aggregates: tuple[int, int] | None = None


def gap_record(exchange: str, gap: Gap) -> GapRecord:
    """A gap as it is recorded when it is found."""
    return GapRecord(
        exchange=exchange,
        symbol=gap.symbol,
        kind=gap.kind,
        first_missing=gap.first_missing,
        last_missing=gap.last_missing,
        missing=gap.missing,
        healed=0,
        state=OPEN,
        reason=gap.reason,
        why="",
        exchange_ts=gap.exchange_ts,
        exchange_to=gap.exchange_to,
        local_ts=gap.local_ts,
    )


def fills_between(symbol: str, since: int, until: int, local_ts: int, reason: str) -> Gap:
    """Trades of unknown number: the venue's times (ns) of the last tick before and the first after,
    and when that arrived."""
    return Gap(symbol, FILLS, None, None, None, reason, since, until, local_ts)


def last_trades(symbol: str, first: int | None, since: int, until: int) -> Gap:
    """What a symbol that is delisted traded from id `first`, where ids rise by one, on."""
    return Gap(symbol, FILLS, first, None, None, DELISTED, since, until, until)


def without(gap: Gap, first: int, last: int, aggregate: int = 0) -> list[Gap]:
    """What is left of a gap in ids once those from `first` to `last` are there.

    Of a gap of aggregates nothing is left before its first and behind its last one: ids that are
    in no aggregate are no market prints.
    """
    assert gap.first_missing is not None
    assert gap.last_missing is not None
    if last < gap.first_missing or first > gap.last_missing:
        return [gap]
    left, right = (gap.first_missing, first - 1), (last + 1, gap.last_missing)
    numbers: list[tuple[int, int] | None] = [None, None]
    if gap.aggregates is not None and aggregate:
        low, high = gap.aggregates
        numbers = [(low, aggregate - 1), (aggregate + 1, high)]
    return [
        replace(gap, first_missing=a, last_missing=b, missing=b - a + 1, aggregates=both)
        for (a, b), both in zip((left, right), numbers, strict=True)
        if a <= b and (both is None or both[0] <= both[1])
    ]
