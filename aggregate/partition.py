"""One partition of the tick topics: records in, bars and state changes out. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from aggregate import bars, snapshot
from aggregate.intervals import LADDER
from aggregate.late_rows import LateRows
from aggregate.shard import Rules, ShardAggregator
from aggregate.watermark import NO_TIME, ShardTime
from ingest import records
from ingest.log import NewRecord, Ownership, Record, TopicPartition
from ingest.ticks import MalformedBatch, Quotes, Trades, decode

_META = "partition"
SECONDS = {interval.name: interval.seconds for interval in LADDER}


@dataclass(slots=True)
class _Shard:
    bars: ShardAggregator
    time: ShardTime
    evicting: set[tuple[str, str, str]] = field(default_factory=set)
    lagging: dict[tuple[records.Source, str], LateRows] = field(default_factory=dict)
    """What came too late since the last `advance`, by its session and kind."""


class PartitionAggregator:
    """Feeds the records of both tick topics to the shards in them, and seals as time moves.

    Restored from an `Ownership`, it wants records from `positions` on: the first that held an
    open tick. Records before `read_to` were read by the last owner; of these only ticks of
    seconds that are still open count.
    """

    def __init__(self, owner: Ownership, rules: Rules, eviction_ns: int) -> None:
        self.partition = owner.partition
        self.rules = rules
        self.dropped: Counter[tuple[str, str, str]] = Counter()
        self.closed: dict[tuple[str, str, str], int] = {}
        """End (s) of the oldest window emitted and not told of, by (shard, clock, interval)."""
        self._eviction_ns = eviction_ns
        self._shards: dict[str, _Shard] = {}
        self._sequence: dict[str, int] = {}
        self.positions = {
            t: owner.offsets.get((t, owner.partition), 0) for t in records.TICK_TOPICS
        }
        self._read_to = dict.fromkeys(records.TICK_TOPICS, 0)
        self.reached = dict.fromkeys(records.TICK_TOPICS, NO_TIME)
        """Per topic, the latest promise (ns) read, of any session: how far reading has come."""
        if _META in owner.state:
            self._restore(owner.state)

    def _restore(self, state: Mapping[str, bytes]) -> None:
        meta = snapshot.read_meta(state[_META])
        self._read_to = meta["read_to"]
        self._sequence = meta["sequence"]
        for name, time in meta["shards"].items():
            own = f"{name}|"
            part = {key[len(own) :]: v for key, v in state.items() if key.startswith(own)}
            shard_time = ShardTime(records.TICK_TOPICS)
            shard_time.load(time)
            self._shards[name] = _Shard(ShardAggregator.restore(part, self.rules), shard_time)

    def feed(self, record: Record) -> None:
        """Take the next record of a tick topic, in offset order within its topic."""
        reread = record.offset < self._read_to[record.topic]
        self.positions[record.topic] = record.offset + 1
        kind = record.headers.get("type")
        try:
            if kind == records.PUNCTUATION:
                promise = records.integer(record.headers, records.LOCAL_TS)
                self.reached[record.topic] = max(self.reached[record.topic], promise)
            if kind in (records.TRADES, records.QUOTES):
                self._ticks(record, kind, reread)
            elif not reread and kind is not None:
                self._control(record, kind)
        except records.BadRecord:
            self.dropped["both", kind or "", "malformed_record"] += 1

    def _shard(self, source: records.Source) -> _Shard:
        shard = self._shards.get(source.shard)
        if shard is None:
            shard = _Shard(
                ShardAggregator(source.exchange, self.rules), ShardTime(records.TICK_TOPICS)
            )
            self._shards[source.shard] = shard
        return shard

    def _ticks(self, record: Record, kind: str, reread: bool) -> None:
        source = records.Source.of(record.headers)
        if not reread and self._repeated(record, source):
            self.dropped["both", kind, "repeated_batch"] += 1
            return
        try:
            value = record.value
            trades = kind == records.TRADES
            ticks = decode(Trades, value) if trades else decode(Quotes, value)
        except MalformedBatch:
            self.dropped["both", kind, "malformed_batch"] += 1
            return
        shard = self._shard(source)
        late = shard.bars.add(ticks, source.collector, record.offset, reread=reread)
        if late and not reread:
            shard.lagging.setdefault((source, kind), LateRows()).add(ticks)

    def _repeated(self, record: Record, source: records.Source) -> bool:
        key = f"{source.shard}|{source.collector}|{source.session}|{record.topic}"
        number = records.integer(record.headers, "seq")
        if number <= self._sequence.get(key, -1):
            return True
        self._sequence[key] = number
        return False

    def _control(self, record: Record, kind: str) -> None:
        source = records.Source.of(record.headers)
        shard = self._shard(source)
        who = (record.topic, source.collector, source.session)
        stamped = records.LOCAL_TS in record.headers
        stamp = records.integer(record.headers, records.LOCAL_TS) if stamped else 0
        if kind == records.PUNCTUATION:
            shard.time.promise(*who, stamp)
        elif kind == records.SESSION_START:
            shard.time.start(*who, stamp)
            self._forget(source)
        elif kind == records.SESSION_END:
            shard.time.promise(*who, stamp)
            shard.time.end(*who)
        elif kind == records.EVICTION:
            shard.time.end(*who)
            shard.evicting.discard(who)
        elif kind == records.COVERAGE:
            coverage = records.Coverage.decode(record.value)
            stamps = coverage.local_from, coverage.exchange_from
            shard.bars.cover(coverage.symbols, *stamps, anew=coverage.anew)

    def _forget(self, source: records.Source) -> None:
        """Batch numbers of a collector's earlier sessions are of no more use."""
        old = f"{source.shard}|{source.collector}|"
        new = f"{old}{source.session}|"
        for key in [k for k in self._sequence if k.startswith(old) and not k.startswith(new)]:
            del self._sequence[key]

    def advance(self) -> list[NewRecord]:
        """Records to commit: bars and close marks that are due, evictions, what came too late."""
        out = [record for shard in self._shards.values() for record in self._lagging(shard)]
        # Until everything the last owner read is held again, a seal would miss open ticks.
        if any(self.positions[topic] < read_to for topic, read_to in self._read_to.items()):
            return out
        for name, shard in self._shards.items():
            for emitted in shard.bars.advance(shard.time.now):
                out.append(bars.record(emitted, self.partition, shard.bars.exchange, name))
                if isinstance(emitted, bars.BarBatch):
                    self._note(name, emitted)
            self.dropped.update(shard.bars.dropped)
            shard.bars.dropped.clear()
            out += self._evictions(name, shard)
        return out

    def _note(self, shard: str, emitted: bars.BarBatch) -> None:
        key = (shard, emitted.clock, emitted.interval)
        if key not in self.closed:  # batches of a pass come in order of time
            self.closed[key] = int(emitted.start.min()) + SECONDS[emitted.interval]

    def _lagging(self, shard: _Shard) -> list[NewRecord]:
        """For replay: what was left out because its seconds were sealed, and up to where."""
        lagging, shard.lagging = shard.lagging, {}
        out = []
        for (source, kind), late in lagging.items():
            value = late.record(kind, shard.bars.sealed).encode()
            headers = source.headers(records.LAGGING, 0)
            out.append(NewRecord(records.TRADES_TOPIC, self.partition, value, headers))
        return out

    def _evictions(self, name: str, shard: _Shard) -> list[NewRecord]:
        out = []
        for who in shard.time.lagging(self._eviction_ns):
            if who not in shard.evicting:
                shard.evicting.add(who)
                topic, collector, session = who
                source = records.Source(shard.bars.exchange, name, collector, session)
                headers = source.headers(records.EVICTION, 0)
                out.append(NewRecord(topic, self.partition, b"", headers))
        return out

    def times(self) -> dict[str, int]:
        """Each shard's time (ns), -1 before its first promise."""
        return {name: shard.time.now for name, shard in self._shards.items()}

    def held(self) -> tuple[int, int]:
        """(ticks of seconds that are open, rows of windows that are)."""
        held = [shard.bars.held() for shard in self._shards.values()]
        return sum(ticks for ticks, _ in held), sum(rows for _, rows in held)

    def changes(self) -> dict[str, bytes | None]:
        """State keys that changed since the last call (None: gone)."""
        out: dict[str, bytes | None] = {_META: self._meta()}
        for name, shard in self._shards.items():
            out |= {f"{name}|{key}": value for key, value in shard.bars.changes().items()}
        return out

    def _meta(self) -> bytes:
        shards = {name: shard.time.dump() for name, shard in self._shards.items()}
        return orjson.dumps(
            {
                "version": snapshot.VERSION,
                "read_to": {t: max(self._read_to[t], self.positions[t]) for t in self.positions},
                "sequence": self._sequence,
                "shards": shards,
            }
        )

    def offsets(self) -> dict[TopicPartition, int]:
        """Where the next owner has to start reading: the first record with an open tick."""
        out = {}
        for topic, kind in zip(records.TICK_TOPICS, (records.TRADES, records.QUOTES), strict=True):
            lows = [shard.bars.low_offset(kind) for shard in self._shards.values()]
            held = [low for low in lows if low is not None]
            out[topic, self.partition] = min([self.positions[topic], *held])
        return out
