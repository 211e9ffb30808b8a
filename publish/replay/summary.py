"""What a replay did, as the command prints it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ingest.gaps import DISCONNECT, RESTART, SEQUENCE, SKIPPED, UNLISTED
from publish.replay.imported import Imported
from publish.replay.work import Result
from publish.replay.writing import Changes

_SHOWN = 5
_UNITS_SHOWN = 40
_HEADS = ("exchange", "symbol", "month", "ticks", "left out", "bars", "gaps", "seconds")
_MALFORMED = "malformed, "
_WHY = {
    SEQUENCE: "the source lacks",
    DISCONNECT: "over lost connections",
    RESTART: "over restarts of the recorder",
    SKIPPED: "where rows were skipped",
    UNLISTED: "whose ids the source does not list, perhaps of prints off the book",
}
"""What is missing, by the reason of its gaps."""


@dataclass(slots=True)
class ReplaySummary:
    """What came of it; `str()` is what the command prints."""

    out: str
    dry: bool = False
    frames: int = 0
    trades: int = 0
    quotes: int = 0
    ignored: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Rows that sources have and that are no ticks, by reason."""
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    gaps: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    """Gaps in sources, and the trades in them, by reason."""
    symbols: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    bars: int = 0
    files: int = 0
    seconds: float = 0.0

    @property
    def malformed(self) -> dict[str, int]:
        """Frames that are not what the venue documents, by reason."""
        return {
            reason.removeprefix(_MALFORMED): n
            for reason, n in self.skipped.items()
            if reason.startswith(_MALFORMED)
        }

    def import_(self, imports: Sequence[Imported]) -> None:
        """Take what was read from sources that are not an own archive."""
        for of in imports:
            self.frames += of.read.get("frames", 0)
            self.trades += of.read.get("trades", 0)
            self.quotes += of.read.get("quotes", 0)
            self.ignored += of.read.get("ignored", 0)
            self.skipped.update(of.skipped)
            self.unknown.update(of.unknown)
            self.problems += of.problems
            for reason, (n, missing) in of.gaps.items():
                self.gaps[reason] += n
                self.missing[reason] += missing
            for reason, example in of.examples.items():
                self.examples.setdefault(reason, example)

    def finish(self, results: Sequence[Result], imported: bool) -> None:
        """Take what came of the units."""
        self.results = list(results)
        self.symbols = sorted({of.unit.symbol for of in results})
        for of in results:
            self.dropped.update(of.account.dropped)
            self.changes.add(of.changes)
            self.bars += of.bars
            if not imported:
                self.trades += of.account.read["trades"]
                self.quotes += of.account.read["quotes"]
        self.files = self.changes.files

    def __str__(self) -> str:
        read = f"{self.trades:,} trades, {self.quotes:,} quotes"
        if self.frames:
            read = f"{self.frames:,} frames: {read}, {self.ignored:,} of other channels"
        lines = [read, *self._left_out(), *self._missing()]
        lines += [f"  {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  … and {len(self.problems) - _SHOWN} more problems")
        lines += _table(self.results)
        skipped = sum(of.skipped for of in self.results)
        if skipped:
            lines.append(f"{skipped:,} months were finished before")
        if self.dry:
            lines += self._changes()
        lines.append(
            f"{self.bars:,} bars of {len(self.symbols)} symbols in {self.files:,} files "
            f"{'would be ' if self.dry else ''}under {self.out} ({self.seconds:.1f} s)"
        )
        return "\n".join(lines)

    def _left_out(self) -> list[str]:
        lines = []
        for reason, n in self.skipped.most_common():
            at, example = self.examples.get(reason, (0, ""))
            more = f"; the first at {at}: {example}" if example else ""
            lines.append(f"  skipped {n:,} {reason}{more}")
        for native, n in self.unknown.most_common(_SHOWN):
            lines.append(f"  skipped {n:,} of unknown symbol {native}")
        if len(self.unknown) > _SHOWN:
            lines.append(f"  … and of {len(self.unknown) - _SHOWN} more unknown symbols")
        for (clock, kind, reason), n in sorted(self.dropped.items()):
            which = "both clocks" if clock == "both" else f"{clock} clock"
            if reason == "withheld":
                lines.append(
                    f"  withheld {n:,} {kind} windows that the data covers only in part "
                    f"({which}; --partial publishes them)"
                )
            else:
                lines.append(f"  left out {n:,} {kind}, {reason.replace('_', ' ')} ({which})")
        return lines

    def _missing(self) -> list[str]:
        lines = []
        for reason, n in self.gaps.most_common():
            missing = self.missing[reason]
            many = f"{missing:,}" if missing else "an unknown number of"
            lines.append(f"  {n:,} gaps of {many} trades {_WHY.get(reason, reason)}")
        return lines

    def _changes(self) -> list[str]:
        rows, days = self.changes.rows, self.changes.days
        hint = " (--force replaces them)" if days["different"] else ""
        return [
            "nothing was written; it would change",
            f"  days of a series: {days['new']:,} new, {days['same']:,} the same, "
            f"{days['different']:,} different{hint}",
            f"  rows: {rows['new']:,} new, {rows['same']:,} the same, "
            f"{rows['different']:,} different, {rows['gone']:,} gone",
        ]


def _table(results: Sequence[Result]) -> list[str]:
    """A line a unit, as long as they can be read."""
    rows: list[tuple[str, ...]] = [
        ("exchange", "symbol", "month", "ticks", "left out", "bars", "gaps", "seconds")
    ]
    for of in results[:_UNITS_SHOWN]:
        unit, account = of.unit, of.account
        left = sum(n for (_, _, why), n in account.dropped.items() if why != "withheld")
        figures = (account.read.total(), left, of.bars, account.gaps)
        shown = [f"{n:,}" for n in figures] + [f"{of.seconds:.1f}"]
        if of.skipped or of.problem:
            shown = ["finished before" if of.skipped else "failed", "", "", "", ""]
        rows.append((unit.exchange, unit.symbol, f"{unit.year}-{unit.month:02}", *shown))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        names = [text.ljust(w) for text, w in zip(row[:3], widths, strict=False)]
        numbers = [text.rjust(w) for text, w in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join([*names, *numbers]).rstrip())
    if len(results) > _UNITS_SHOWN:
        lines.append(f"… and {len(results) - _UNITS_SHOWN:,} more months")
    return lines
