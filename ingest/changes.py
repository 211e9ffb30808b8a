"""What became of a venue's instruments between two lists. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ingest.instruments import Instrument


@dataclass(frozen=True, slots=True)
class Changes:
    """`added` are new or trade again, `gone` trade no more, `resized` have another contract size.

    `before` are the sizes that the resized had.
    """

    added: tuple[Instrument, ...]
    gone: tuple[Instrument, ...]
    resized: tuple[Instrument, ...]
    before: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.gone or self.resized)

    def events(self) -> Iterator[tuple[str, dict[str, str]]]:
        """(event, its details) for the log."""
        for what, instruments in (("listed", self.added), ("delisted", self.gone)):
            for i in instruments:
                yield what, {"native": i.native, "symbol": i.symbol}
        for i, before in zip(self.resized, self.before, strict=True):
            size = {"before": repr(before), "after": repr(i.contract_size)}
            yield "contract-size", {"native": i.native, "symbol": i.symbol, **size}


def changes(before: Mapping[str, Instrument], after: Sequence[Instrument]) -> Changes:
    """From the instruments by native id to the ones now."""
    now = {i.native: i for i in after}
    resized = [i for n, i in now.items() if n in before and before[n] != i]
    return Changes(
        added=tuple(i for n, i in now.items() if n not in before),
        gone=tuple(i for n, i in before.items() if n not in now),
        resized=tuple(resized),
        before=tuple(before[i.native].contract_size for i in resized),
    )
