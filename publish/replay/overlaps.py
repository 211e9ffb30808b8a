"""A day given twice: what is the same is read once, what is not is refused."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from publish.replay.imported import Imported
from publish.replay.sources import FRAMES
from publish.replay.sources.base import SourceError


def same_content(url: str) -> str:
    """What is said of a file that is another once more."""
    return f"{url} has the content of a file before it: read once"


def refuse_overlaps(found: Sequence[Imported]) -> list[Imported]:
    """The imports, each once. Raises `SourceError` for archives of the same ticks twice.

    Recordings may overlap: collectors are redundant, and ids tell their copies.
    """
    out: dict[str, Imported] = {}
    for imported in found:
        if imported.digest in out:
            note = same_content(imported.sources[0]["url"])
            first = out[imported.digest]
            out[imported.digest] = replace(first, problems=[*first.problems, note])
        else:
            out[imported.digest] = imported
    spans: dict[tuple[str, str, str], list[tuple[int, int, Imported]]] = {}
    for imported in out.values():
        if imported.sources[0]["format"] == FRAMES:
            continue
        for symbol, start, end, *_ in imported.coverage:
            key = imported.exchange, symbol, imported.kinds[0]
            spans.setdefault(key, []).append((start, end, imported))
    for (exchange, symbol, kind), places in spans.items():
        places.sort(key=lambda of: of[:2])
        for (_, end, one), (start, _, other) in pairwise(places):
            if start < end:
                raise SourceError(
                    f"{one.sources[0]['url']} and {other.sources[0]['url']} both have {kind} of "
                    f"{symbol} ({exchange}) for the same time: give one of them"
                )
    return list(out.values())
