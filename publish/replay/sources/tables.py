"""CSV as blocks of typed columns: memory is bounded by the block, every bad row is named.

No format here quotes its values, so a line is a row.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from ingest.ticks import I64
from ingest.words import shown
from publish.replay.sources.base import (
    BAD_ROWS,
    Bools,
    Layout,
    Report,
    Rows,
    SourceError,
    without,
)
from publish.replay.sources.texts import read_some

BLOCK_BYTES = 8 << 20
TEXT = pa.dictionary(pa.int32(), pa.utf8())
_LINE = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a file (n), and the text they were read of. Columns without nulls are arrays."""

    name: str
    first_line: int
    text: bytes
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        """A column (n,); NaN where a cell is empty that may be."""
        values: npt.NDArray[Any] = self.table[column].to_numpy()
        return values

    def texts(self, column: str) -> pa.DictionaryArray:
        """A column of texts (n,), coded."""
        return self.table[column].combine_chunks()

    def where(self, row: int) -> str:
        """file:line of a row of the text (from 0)."""
        rows = [i for i, line in enumerate(_LINE.split(self.text)) if line]
        return f"{self.name}:{self.first_line + rows[row]}"

    def take(self, keep: Bools) -> "Block":
        """Some of the rows; `where` goes on to count all."""
        return replace(self, table=self.table.filter(pa.array(keep)))

    def empty(self, optional: Collection[str]) -> Bools | None:
        """Which rows lack a value that they need, None if none does."""
        needed = [self.table[name] for name in self.table.column_names if name not in optional]
        lacking = [column.is_null().to_numpy() for column in needed if column.null_count]
        return np.logical_or.reduce(lacking) if lacking else None


Where = Callable[[int], str]
"""file:line of a row by its number in the file (from 0)."""


def _place(block: Block, first: int, row: int) -> str:
    return block.where(row - first)


class Reader(Protocol):
    """Turns a file's blocks, one after the other, into rows."""

    def rows(self, block: Block, row: I64) -> Rows:
        """Of a block, and the numbers of its rows in the file (n,)."""

    def rest(self) -> Rows | None:
        """What it held back until the file's end."""


@dataclass(frozen=True, slots=True)
class Plainly:
    """A reader of rows that stand for themselves."""

    of: Callable[[Block, I64], Rows]

    def rows(self, block: Block, row: I64) -> Rows:
        return self.of(block, row)

    def rest(self) -> Rows | None:
        return None


@dataclass(frozen=True, slots=True)
class Source:
    """A format that is a table.

    `types` of the columns that are read, of which cells of the `optional` may be empty. `recorded`:
    it has arrival stamps. `holes`: why ids of trades may be missing in a file (`ingest.gaps`), ""
    where they don't say.
    """

    format: str
    collector: str
    types: Mapping[str, pa.DataType]
    reader: Callable[[Layout], Reader]
    optional: frozenset[str] = frozenset()
    recorded: bool = True
    holes: Callable[[Layout], str] = lambda layout: ""

    def read(
        self, stream: IO[bytes], name: str, layout: Layout, report: Report
    ) -> Iterator[tuple[Rows, Where]]:
        """The rows that can be read, in the file's order, and where they are; the rest is
        reported."""
        reader = self.reader(layout)
        types = {column: self.types[column] for column in layout.columns if column in self.types}
        done = unread = 0
        for block in read_blocks(stream, name, layout, types, report):
            if report.skipped.total() > unread:
                report.lost.append(done - 1)
            total = len(block)
            numbers = np.arange(done, done + total)
            report.read["rows"] += total
            lacking = block.empty(self.optional)
            if lacking is not None:
                _skip(report, "an empty value", block, numbers[lacking] - done)
                report.lost += numbers[lacking].tolist()
                block, numbers = block.take(~lacking), numbers[~lacking]
            if len(block):
                rows = reader.rows(block, numbers)
                bad = rows.bad()
                if bad.any():
                    _skip(report, "a value out of range", block, rows.row[bad] - done)
                    report.lost += rows.row[bad].tolist()
                    rows = without(rows, bad)
                yield rows, partial(_place, block, done)
            done += total
            unread = report.skipped.total()
        if report.skipped.total() > unread:
            report.lost.append(done - 1)
        rest = reader.rest()
        if rest is not None:
            yield without(rest, rest.bad()), lambda row: f"{name}, row {row + 1}"


def header_columns(line: bytes, name: str, needed: Sequence[str]) -> tuple[str, ...]:
    """The columns a header names. Raises `SourceError` if one of the needed is missing."""
    columns = tuple(text.strip() for text in line.decode("utf-8", "replace").split(","))
    missing = [column for column in needed if column not in columns]
    if missing:
        raise SourceError(f"{name}:1: the column {missing[0]} is missing: it has {shown(columns)}")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise SourceError(f"{name}:1: the column {shown(twice[0])} is there twice")
    return columns


def read_blocks(
    stream: IO[bytes],
    name: str,
    layout: Layout,
    types: Mapping[str, pa.DataType],
    report: Report,
) -> Iterator[Block]:
    """The columns that `types` names, of all rows that can be read; empty cells are null.

    The others are reported. Raises `SourceError` for damage, and for a file that has more than
    `BAD_ROWS` of them.
    """
    for line, text in _texts(stream, name, layout.header, BLOCK_BYTES):
        for first, part, table in _tables(text, name, line, layout, types, report):
            if table.num_rows:
                yield Block(name, first, part, table)


def _texts(
    stream: IO[bytes], name: str, header: bool, block_bytes: int
) -> Iterator[tuple[int, bytes]]:
    """(number of the first line, whole lines) of the file, without its header."""
    line = 1
    rest = b""
    while data := read_some(name, line, stream, block_bytes):
        cut = data.rfind(b"\n") + 1
        if not cut:
            if len(rest) + len(data) > 2 * block_bytes:
                raise SourceError(f"{name}:{line}: a line of more than {block_bytes:,} bytes")
            rest += data
            continue
        text, rest = rest + data[:cut], data[cut:]
        if header:
            header = False
            at = _end_of_first(text)
            line += text.count(b"\n", 0, at)
            text = text[at:]
        yield line, text
        line += text.count(b"\n")
    if rest and not header:
        yield line, rest


def _end_of_first(text: bytes) -> int:
    """Where the first line that is not empty ends."""
    at = 0
    while True:
        end = text.find(b"\n", at) + 1
        if not end or text[at:end].strip():
            return end or len(text)
        at = end


def _tables(
    text: bytes,
    name: str,
    line: int,
    layout: Layout,
    types: Mapping[str, pa.DataType],
    report: Report,
) -> Iterator[tuple[int, bytes, pa.Table]]:
    """The text as tables, cut in halves where it can't be read until the bad rows are found."""
    try:
        yield line, text, _table(text, layout, types)
        return
    except pa.ArrowInvalid as error:
        middle = text.find(b"\n", len(text) // 2 - 1) + 1
        if middle in (0, len(text)):
            middle = text.rfind(b"\n", 0, len(text) - 1) + 1
        if not middle:
            unread = Block(name, line, text, pa.table({}))
            _skip(report, _reason(str(error)), unread, np.zeros(1, np.int64))
            return
    yield from _tables(text[:middle], name, line, layout, types, report)
    line += text.count(b"\n", 0, middle)
    yield from _tables(text[middle:], name, line, layout, types, report)


def _skip(report: Report, reason: str, block: Block, rows: I64) -> None:
    """Leave rows of a block (by their place in it, from 0) out."""
    report.skip(reason, len(rows), lambda: block.where(int(rows[0])))
    if report.skipped.total() > BAD_ROWS:
        raise SourceError(
            f"{block.where(int(rows[0]))}: {reason}; more than {BAD_ROWS:,} rows can't be read"
        )


def _reason(text: str) -> str:
    """Arrow's words without the row, which are told apart by file:line."""
    if "Expected" in text and "columns" in text:
        return "another number of columns"
    kind = re.search(r"conversion error to ([\w ]+)", text)
    return f"a value that is no {_WORDS.get(kind[1], kind[1])}" if kind else "not a row of CSV"


_WORDS = {
    "int64": "whole number",
    "double": "number",
    "bool": "true or false",
    "dictionary": "text",
}


def _table(text: bytes, layout: Layout, types: Mapping[str, pa.DataType]) -> pa.Table:
    if not text or text.isspace():
        return pa.table({name: pa.array([], kind) for name, kind in types.items()})
    return pyarrow.csv.read_csv(
        pa.BufferReader(text),
        pyarrow.csv.ReadOptions(
            column_names=list(layout.columns), use_threads=False, block_size=len(text) + 1
        ),
        pyarrow.csv.ParseOptions(quote_char=False),
        pyarrow.csv.ConvertOptions(
            column_types=dict(types),
            include_columns=list(types),
            null_values=[""],
            strings_can_be_null=False,
        ),
    )
