"""What is missing between imports that follow on each other: a day's file and the next one's."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from ingest.gaps import IDS, SEQUENCE, SKIPPED, UNLISTED, Gap
from publish.raw_chunks import TRADES
from publish.replay.imported import Imported
from publish.replay.missing import Edge
from publish.replay.month import OUTAGE_NS

Span = tuple[int, int]
"""[from, to) that an import is the whole of, ns of arrival."""


def gaps_between(imports: Sequence[Imported]) -> dict[str, list[Gap]]:
    """By exchange: trades that neither an import nor the one after it has, by symbol.

    Of imports farther apart than an outage nobody says what is between them.
    """
    found: dict[tuple[str, str], list[tuple[Edge, Span]]] = defaultdict(list)
    for imported in imports:
        if TRADES in imported.kinds:
            spans = _spans(imported)
            for symbol in imported.edges.keys() & spans.keys():
                found[imported.exchange, symbol].append((imported.edges[symbol], spans[symbol]))
    out: dict[str, list[Gap]] = defaultdict(list)
    for (exchange, symbol), places in sorted(found.items(), key=lambda of: of[0]):
        for gap in _of_symbol(symbol, sorted(places, key=lambda of: of[0].first)):
            out[exchange].append(gap)
    return out


def _spans(imported: Imported) -> dict[str, Span]:
    spans: dict[str, Span] = {}
    for symbol, start, end, *_ in imported.coverage:
        low, high = spans.get(symbol, (start, end))
        spans[symbol] = min(low, start), max(high, end)
    return spans


def _of_symbol(symbol: str, places: Sequence[tuple[Edge, Span]]) -> Iterator[Gap]:
    before, until = places[0][0], places[0][1][1]
    for after, (start, end) in places[1:]:
        near = start <= until + OUTAGE_NS
        if near and after.first > before.last + 1 and not _chained(before, after):
            yield Gap(
                symbol,
                IDS,
                before.last + 1,
                after.first - 1,
                after.first - before.last - 1,
                _reason(before, after),
                before.exchange_to,
                after.exchange_from,
                after.local_from,
            )
        if after.last > before.last:
            before = after
        until = max(until, end)


def _chained(before: Edge, after: Edge) -> bool:
    """Whether the one's first aggregate follows the other's last: ids between are no prints."""
    return 0 < before.last_aggregate == after.first_aggregate - 1


def _reason(before: Edge, after: Edge) -> str:
    if before.lost_after or after.lost_before:
        return SKIPPED
    one_aggregated = (before.last_aggregate > 0) != (after.first_aggregate > 0)
    return UNLISTED if one_aggregated or UNLISTED in (before.reason, after.reason) else SEQUENCE
