"""Parse frames into columns, for the tests of the venues."""

import gzip
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from ingest.batches import Universe, quotes_batch, trades_batch
from ingest.instruments import Instrument, atlas_id
from ingest.ticks import Quotes, Trades
from ingest.venues import Frame, ParseReport, ParserState, Row, venue

DATA = Path(__file__).parents[3] / "shared" / "data"
ARRIVAL = 1_791_269_850_000_000_000


@dataclass(slots=True)
class Parsed:
    trades: Trades
    quotes: Quotes
    report: ParseReport
    next_row: int


def instrument(
    exchange: str, native: str, contract_size: float = 1.0, inverse: bool = False
) -> Instrument:
    symbol = atlas_id(native, "QUOTE", "MARGIN")
    return Instrument(exchange, native, symbol, contract_size, inverse)


def parse_frames(
    instruments: Sequence[Instrument],
    frames: Sequence[Frame],
    *,
    row: int = 0,
    state: ParserState | None = None,
) -> Parsed:
    universe = Universe(instruments)
    trades: list[list[Row]] = [[]]
    quotes: list[list[Row]] = [[]]
    report = ParseReport()
    parse = venue(instruments[0].exchange).parse
    end = parse(frames, universe.routes(trades, quotes), row, report, state)
    columns = trades_batch(universe, trades[0]), quotes_batch(universe, quotes[0])
    return Parsed(*columns, report, end)


def parse_payloads(
    instruments: Sequence[Instrument], *payloads: bytes | dict[str, object]
) -> Parsed:
    """Payloads as frames that arrived 1 µs apart from `ARRIVAL` on."""
    raw = [p if isinstance(p, bytes) else orjson.dumps(p) for p in payloads]
    return parse_frames(instruments, [(ARRIVAL + 1_000 * i, p) for i, p in enumerate(raw)])


def recorded(name: str) -> Path:
    """A file of ../shared/data; skips the test without it."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no recorded data at {path}")
    return path


def fixture_messages(name: str) -> list[bytes]:
    """The frames in a Tardis fixture of ../shared/data."""
    lines = recorded(name).read_bytes().splitlines()
    messages = [orjson.loads(line)["msg"] for line in lines]
    return [orjson.dumps(m.get("message", m)) for m in messages]


def cryptofeed_frames(name: str) -> Iterator[Frame]:
    """The received frames of a cryptofeed capture (`<float seconds>: <frame>` lines)."""
    with gzip.open(recorded(name)) as lines:
        for line in lines:
            stamp, found, payload = line.rstrip(b"\n").partition(b": ")
            if found and stamp.replace(b".", b"").isdigit():
                yield int(float(stamp) * 1e6) * 1_000, payload


def columns(batch: Trades | Quotes, names: Iterable[str]) -> list[tuple[object, ...]]:
    """The rows of the named columns, as tuples of Python values."""
    return list(zip(*(getattr(batch, name).tolist() for name in names), strict=True))
