"""What the log, the bars and /metrics say of a fault run, in numbers to hold against the ledger."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from prometheus_client.parser import text_string_to_metric_families

from aggregate.bars import read_table
from ingest.instruments import partition_of
from ingest.log import Log, Record
from ingest.records import BARS, BARS_TOPIC, EVENT, GAP, OPEN, TRADES, TRADES_TOPIC, GapRecord
from ingest.simulator.ledger import Trades as Made
from ingest.ticks import HEALED, I64, Trades, decode

Symbol = tuple[str, str]
"""(exchange, Atlas id)."""


@dataclass
class OnLog:
    """What the log says of one symbol: its rows in order of id, and its gap records."""

    id: I64
    count: I64
    price: np.ndarray
    qty: np.ndarray
    origin: np.ndarray
    gaps: list[GapRecord] = field(default_factory=list)

    @property
    def ids(self) -> I64:
        """Every id there is, once; an aggregate's too."""
        if (self.count == 1).all():
            return np.unique(self.id)
        first = self.id - self.count + 1
        spans = [np.arange(a, b + 1) for a, b in zip(first, self.id, strict=True)]
        return np.unique(np.concatenate(spans))

    def explained(self, ids: I64, ms: I64) -> np.ndarray:
        """Which trades a recorded gap says may be missing."""
        inside = np.zeros(len(ids), bool)
        for gap in self.gaps:
            if gap.first_missing is None or gap.last_missing is None:
                ns = ms * 1_000_000
                inside |= (gap.exchange_ts <= ns) & (ns <= gap.exchange_to)
            else:
                inside |= (gap.first_missing <= ids) & (ids <= gap.last_missing)
        return inside

    @property
    def closed(self) -> list[GapRecord]:
        return [gap for gap in self.gaps if gap.state != OPEN]


@dataclass
class LogAccount:
    """Everything on the trades topic."""

    symbols: dict[Symbol, OnLog]
    events: list[tuple[str, dict[str, str]]]
    """(exchange, event), each once though it is in every partition."""

    def rows(self, exchange: str) -> int:
        return sum(len(s.id) for (e, _), s in self.symbols.items() if e == exchange)

    def healed(self, exchange: str) -> int:
        mine = (s for (e, _), s in self.symbols.items() if e == exchange)
        return sum(int((s.origin == HEALED).sum()) for s in mine)

    def gaps(self, exchange: str) -> list[GapRecord]:
        return [g for (e, _), s in self.symbols.items() if e == exchange for g in s.gaps]

    def count(self, exchange: str, event: str) -> Counter[str]:
        """How often the event, by its reason."""
        mine = (d for e, d in self.events if e == exchange and d["event"] == event)
        return Counter(details.get("reason", "") for details in mine)


async def read_trades(log: Log, partitions: int) -> LogAccount:
    """The whole trades topic; a symbol's ticks must be in its partition."""
    parts: dict[Symbol, list[Trades]] = defaultdict(list)
    gaps: dict[Symbol, list[GapRecord]] = defaultdict(list)
    events = []
    for partition in range(partitions):
        async for record in read_records(log, TRADES_TOPIC, partition):
            exchange = record.headers["exchange"]
            kind = record.headers["type"]
            if kind == TRADES:
                batch = decode(Trades, record.value)
                for code in np.unique(batch.code).tolist():
                    symbol = batch.symbols[code]
                    assert partition_of(exchange, symbol, partitions) == partition
                    parts[exchange, symbol].append(batch.take(batch.code == code))
            elif kind == GAP:
                gap = GapRecord.decode(record.value)
                gaps[exchange, gap.symbol].append(gap)
            elif kind == EVENT and partition == 0:
                events.append((exchange, orjson.loads(record.value)))
    symbols = {key: _joined(batches, gaps[key]) for key, batches in parts.items()}
    return LogAccount(symbols, events)


def _joined(batches: Sequence[Trades], gaps: list[GapRecord]) -> OnLog:
    names = ("id", "count", "price", "qty", "origin")
    columns = [np.concatenate([getattr(b, name) for b in batches]) for name in names]
    order = np.argsort(columns[0], kind="stable")
    return OnLog(*(column[order] for column in columns), gaps)


async def bar_counts(log: Log, partitions: int, since: int = 0) -> Counter[Symbol]:
    """Trades in the exchange clock's one-second bars of `flow` from that second on, by symbol."""
    found: Counter[Symbol] = Counter()
    for partition in range(partitions):
        async for record in read_records(log, BARS_TOPIC, partition):
            wanted = {"type": BARS, "dataset": "flow", "interval": "1s", "clock": "exchange"}
            if not wanted.items() <= record.headers.items():
                continue
            table = read_table(record.value)
            table = table.filter(
                pc.greater_equal(table["time"], pa.scalar(since, pa.timestamp("s")))
            )
            count = pc.add(table["taker_buy_count"], table["taker_sell_count"])
            names = table["symbol"].to_pylist()
            for symbol, n in zip(names, count.to_pylist(), strict=True):
                found[record.headers["exchange"], symbol] += int(n)
    return found


async def read_records(log: Log, topic: str, partition: int) -> AsyncIterator[Record]:
    """Every record of a partition."""
    offset = 0
    while records := await log.read(topic, partition, offset, max_bytes=8 << 20):
        for record in records:
            yield record
        offset = records[-1].offset + 1


def assert_accounted_for(made: Made, mine: OnLog, start_ms: int) -> int:
    """Every trade made from `start_ms` on is on the log, with its price, or inside a recorded gap.

    Returns how many are in gaps alone.
    """
    ids = mine.ids
    assert np.isin(ids, made.id).all(), "on the log, but never made"
    order = np.argsort(made.id)
    at = order[np.searchsorted(made.id[order], mine.id)]
    assert (made.price[at] == mine.price).all()
    missing = (made.ms >= start_ms) & ~np.isin(made.id, ids)
    unexplained = missing & ~mine.explained(made.id, made.ms)
    assert not unexplained.any(), (made.id[unexplained], made.ms[unexplained], mine.gaps)
    return int(missing.sum())


def scrape(port: int) -> "Scrape":
    """/metrics, over HTTP."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text
    values = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return Scrape(values)


class Scrape:
    """One look at /metrics; the difference of two is what was counted between them."""

    def __init__(self, values: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> None:
        self._values = values

    def __sub__(self, before: "Scrape") -> "Scrape":
        old = before._values
        return Scrape({key: value - old.get(key, 0.0) for key, value in self._values.items()})

    def total(self, name: str, **labels: str) -> int:
        """The sum of a counter over everything but these labels."""
        return sum(self.by(name, "", **labels).values())

    def by(self, name: str, label: str, **labels: str) -> Counter[str]:
        """A counter by one of its labels, those above 0."""
        found: Counter[str] = Counter()
        for (sample, pairs), value in self._values.items():
            mine = dict(pairs)
            if sample == f"perpflow_{name}_total" and labels.items() <= mine.items() and value:
                found[mine.get(label, "")] += round(value)
        return found

    def values(self, sample: str) -> list[float]:
        """The values of all series of that name."""
        return [value for (name, _), value in self._values.items() if name == sample]

    def buckets(self, sample: str, **labels: str) -> dict[float, float]:
        """The cumulative counts of a histogram by their bounds, summed over everything but these
        labels."""
        found: dict[float, float] = defaultdict(float)
        for (name, pairs), value in self._values.items():
            mine = dict(pairs)
            if name == sample and labels.items() <= mine.items():
                found[float(mine["le"])] += value
        return found
