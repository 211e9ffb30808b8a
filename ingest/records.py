"""What is on the log: topics, record headers and the control records between tick batches.

Every record of a tick topic carries the headers

    type       trades | quotes | punctuation | session-start | session-end | coverage | eviction
               | lagging | event | gap
    exchange   binance-futures | okx-perps | hyperliquid-perps
    shard      collectors that run the same subscriptions; ticks of an instrument seal on its time
    collector  the collector's id
    session    one run of a collector: its start in ns, as text. A later session of a collector
               ends its earlier one
    seq        number of the record within (collector, session, topic, partition), from 0
    schema     version of the value's layout

A punctuation is the promise that no later record of its session in its partition carries a
smaller `local_ts`; only punctuation moves time (DESIGN decision 3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import msgspec
import orjson

from ingest.words import shown

TRADES_TOPIC = "ticks.trades"
QUOTES_TOPIC = "ticks.quotes"
BARS_TOPIC = "bars"
TICK_TOPICS = (TRADES_TOPIC, QUOTES_TOPIC)
SCHEMA_VERSION = 1

TRADES = "trades"
QUOTES = "quotes"
PUNCTUATION = "punctuation"
SESSION_START = "session-start"
SESSION_END = "session-end"
COVERAGE = "coverage"
EVICTION = "eviction"
LAGGING = "lagging"
EVENT = "event"
GAP = "gap"
BARS = "bars"
CLOSED = "closed"

LOCAL_TS = "local_ts"
"""Header of punctuation, session-start and session-end: nanoseconds since the epoch, as text."""


T = TypeVar("T")
_DIGITS = 20


class BadRecord(ValueError):
    """A control record's value, or the headers of a record, are not as described here."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """From when an instrument's data is complete: the value (JSON) of a `coverage` record.

    `local_from` is the arrival clock (ns) at which the subscription stood, `exchange_from` the
    later of that and the first live tick's exchange stamp (venue and local clocks may differ).
    A window is published only if it starts at or after its clock's stamp. Of several coverages of
    an instrument the earliest counts, but not from before one that is `anew`: then it was listed,
    perhaps once more, and what was complete before ended with its delisting.
    """

    symbols: Sequence[str]
    local_from: int
    exchange_from: int
    anew: bool = False

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, value: bytes) -> "Coverage":
        """Raises `BadRecord`."""
        return _decoded(cls, value)


@dataclass(frozen=True, slots=True)
class Lagging:
    """Ticks that came when their seconds were sealed: the value (JSON) of a `lagging` record.

    An aggregator writes it into the trades topic, in the commit that counts them, for replay to
    leave out the same. Of symbol i of the session that the headers name those are meant that
    arrived in [local_from[i], local_to[i]] (ns) as rows [row_from[i], row_to[i]]; of these it left
    out what is stamped before `sealed_exchange` and `sealed_true` (s) on each clock.
    """

    kind: str
    symbols: Sequence[str]
    local_from: Sequence[int]
    local_to: Sequence[int]
    row_from: Sequence[int]
    row_to: Sequence[int]
    sealed_exchange: int
    sealed_true: int

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, value: bytes) -> "Lagging":
        """Raises `BadRecord`."""
        return _decoded(cls, value)


OPEN, WHOLE, PARTLY, UNHEALABLE = "open", "healed", "partly", "unhealable"
"""States of a gap: found just now; or how its healing ended."""


@dataclass(frozen=True, slots=True)
class GapRecord:
    """Trades that did not arrive: the value (JSON) of a `gap` record, in the symbol's partition.

    Written when the gap is found (`open`) and again when healing has ended, with the same `symbol`,
    `kind`, `first_missing`, `last_missing`, `exchange_ts` and `local_ts`. Kind `ids`: trade ids
    from–to; `missing` ids are not there, of which some may be no trades. Kind `fills`:
    an unknown number (null) between the venue's times (ns) `exchange_ts`, of the last good tick
    before, and `exchange_to`, of the first after: Hyperliquid's, which have no sequence, and those
    of a symbol of which no trade was known before (then from when its stream may have been dead) or
    that was delisted (then `exchange_to` is when that was known, and `first_missing` the id after
    the last that was seen). `local_ts` is that one's arrival.
    `healed` trades have arrived since, as ticks of origin 2; `why` says why not all.
    """

    exchange: str
    symbol: str
    kind: str
    first_missing: int | None
    last_missing: int | None
    missing: int | None
    healed: int
    state: str
    reason: str
    why: str
    exchange_ts: int
    exchange_to: int
    local_ts: int

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, value: bytes) -> "GapRecord":
        """Raises `BadRecord`."""
        return _decoded(cls, value)


@dataclass(frozen=True, slots=True)
class Source:
    """Who wrote a tick record: the identifying part of its headers."""

    exchange: str
    shard: str
    collector: str
    session: str

    def headers(self, kind: str, seq: int, **more: str) -> dict[str, str]:
        return {
            "type": kind,
            "exchange": self.exchange,
            "shard": self.shard,
            "collector": self.collector,
            "session": self.session,
            "seq": str(seq),
            "schema": str(SCHEMA_VERSION),
            **more,
        }

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "Source":
        """Raises `BadRecord` for a record that doesn't say who wrote it."""
        try:
            return cls(*(headers[n] for n in ("exchange", "shard", "collector", "session")))
        except KeyError as error:
            raise BadRecord(f"a record without the header {error}") from error


def integer(headers: Mapping[str, str], name: str) -> int:
    """A header that is a number from 0 on. Raises `BadRecord`."""
    text = headers.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < _DIGITS):
        raise BadRecord(f"the header {name} is {shown(text)}, not a number")
    return int(text)


def _decoded(kind: type[T], value: bytes) -> T:
    try:
        return msgspec.json.decode(value, type=kind)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"no {kind.__name__}: {shown(error)}") from error
