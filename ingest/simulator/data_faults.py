"""Faults of the data: what a venue's streams and REST history do wrong, seeded and scripted. Pure.

    DataFaults(7, [
        Fault("drop", chance=0.002, n=5),                       # five frames in a row, now and then
        Fault("reorder", "*@trade", chance=0.01, n=3),          # behind the next three
        Fault("drop", "*@trade", between=(10, 40)),             # silent from second 10 to 40
        Fault("shift", chance=0.001, n=20, by_s=-3.0),          # exchange time steps back
    ], throttles=[Throttle(429, chance=0.1, retry_after_s=1)])

What is drawn for a stream depends on the seed and the stream's own events alone. A shift is the
venue's own stamp of an event: its history has it too. The other faults are of what is pushed.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from heapq import heappop, heappush
from random import Random
from typing import Literal

from ingest.simulator.market import Event

_NS = 1_000_000_000
_LONGEST_HOLD = _NS
"""A frame that waits for others to overtake it goes after this much market time, whatever comes."""
_STAMPS = re.compile(rb'("(?:T|E|ts|time)":"?)(\d{13})(?=\D)')


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong on the streams whose key matches `streams` (a glob).

    It strikes an event with probability `chance`, between two times of the market (s since its
    start) if given. `n` is of how many events in a row (drop, shift), how many copies (duplicate),
    or behind how many later events of the stream (reorder); `by_s` is by how much (delay, shift):
    a positive shift puts exchange stamps ahead of their arrival.
    """

    kind: Literal["drop", "duplicate", "reorder", "delay", "shift"]
    streams: str = "*"
    chance: float = 1.0
    between: tuple[float, float] | None = None
    n: int = 1
    by_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Throttle:
    """REST history answers `status` (429, 418, 401 for want of an API key) with that Retry-After
    instead, now and then; only on paths that match `paths` (a glob)."""

    status: int
    chance: float
    retry_after_s: float
    paths: str = "*"


@dataclass(slots=True)
class _Held:
    """An event that waits until `left` others of its stream have passed."""

    event: Event
    left: int


class DataFaults:
    """Applies faults to each event of the feeds; `struck` counts events by kind of fault."""

    def __init__(
        self, seed: int, faults: Sequence[Fault], throttles: Sequence[Throttle] = ()
    ) -> None:
        self._seed = seed
        self._faults = tuple(faults)
        self._throttles = tuple(throttles)
        self._rest = Random(f"{seed}|rest")
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._stamps: dict[tuple[str, str], _Stream] = {}
        self._delayed: dict[str, list[tuple[int, int, Event]]] = {}
        self._holding: dict[str, set[_Stream]] = {}
        self._count = 0
        self.struck: Counter[str] = Counter()

    def stamped(self, exchange: str, event: Event, since_ns: int) -> Event:
        """The event as the venue makes it, `since_ns` after the market's start."""
        stream = self._stream(self._stamps, exchange, event[1], shifts=True)
        if not stream.faults:
            return event
        ((_, found),) = stream.take(event, since_ns / _NS, self.struck)
        return found

    def pushed(self, exchange: str, event: Event, since_ns: int) -> list[Event]:
        """What goes out now that `event` is due, `since_ns` after the market's start."""
        stream = self._stream(self._streams, exchange, event[1], shifts=False)
        if not stream.faults:
            return [event]
        due = []
        for when, pushed in stream.take(event, since_ns / _NS, self.struck):
            if when > event[0]:
                self._count += 1
                heappush(self._delayed.setdefault(exchange, []), (when, self._count, pushed))
            else:
                due.append(pushed)
        if stream.holds:
            self._holding.setdefault(exchange, set()).add(stream)
        return due

    def released(self, exchange: str, due: int) -> Iterator[Event]:
        """What was held back and goes out up to market time `due` (ns)."""
        delayed = self._delayed.get(exchange, [])
        while delayed and delayed[0][0] <= due:
            yield heappop(delayed)[2]
        holding = self._holding.get(exchange, set())
        for stream in sorted(holding, key=lambda stream: stream.name):
            yield from stream.expired(due)
            if not stream.holds:
                holding.remove(stream)

    def _stream(
        self, streams: "dict[tuple[str, str], _Stream]", exchange: str, key: str, shifts: bool
    ) -> "_Stream":
        stream = streams.get((exchange, key))
        if stream is None:
            name = f"{self._seed}|{exchange}|{key}{'|stamps' if shifts else ''}"
            mine = [
                f
                for f in self._faults
                if fnmatchcase(key, f.streams) and (f.kind == "shift") is shifts
            ]
            stream = streams[exchange, key] = _Stream(name, mine)
        return stream

    def throttled(self, path: str) -> Throttle | None:
        """The refusal of this request for history, if it is refused."""
        for throttle in self._throttles:
            if fnmatchcase(path, throttle.paths) and self._rest.random() < throttle.chance:
                self.struck[str(throttle.status)] += 1
                return throttle
        return None


class _Stream:
    """The faults of one stream."""

    def __init__(self, name: str, faults: Sequence[Fault]) -> None:
        self.name = name
        self.faults = faults
        self._random = Random(name)
        self._running = [0] * len(faults)
        self._held: list[_Held] = []

    @property
    def holds(self) -> bool:
        """Whether events wait for others to overtake them."""
        return bool(self._held)

    def take(self, event: Event, second: float, struck: Counter[str]) -> list[tuple[int, Event]]:
        """(when, event) of what goes out for it, in order."""
        out = [event]
        when = event[0]
        overtaken = 0
        for i, fault in enumerate(self.faults):
            if not self._strikes(i, fault, second):
                continue
            struck[fault.kind] += 1
            if fault.kind == "drop":
                return self._passed([])
            if fault.kind == "duplicate":
                out *= 1 + fault.n
            elif fault.kind == "shift":
                out = [shifted(e, round(fault.by_s * 1_000)) for e in out]
            elif fault.kind == "delay":
                when += round(fault.by_s * _NS)
            else:
                overtaken = self._random.randint(1, fault.n)
        if overtaken:
            found = self._passed([])
            self._held += [_Held(e, overtaken) for e in out]
            return found
        return self._passed([(when, e) for e in out])

    def _strikes(self, i: int, fault: Fault, second: float) -> bool:
        if fault.between is not None and not fault.between[0] <= second < fault.between[1]:
            return False
        if self._running[i]:
            self._running[i] -= 1
            return True
        if self._random.random() >= fault.chance:
            return False
        if fault.kind in ("drop", "shift"):
            self._running[i] = fault.n - 1
        return True

    def _passed(self, out: list[tuple[int, Event]]) -> list[tuple[int, Event]]:
        """What goes out, and behind it what has been overtaken often enough."""
        for held in self._held:
            held.left -= 1
        out += [(0, h.event) for h in self._held if h.left <= 0]
        self._held = [h for h in self._held if h.left > 0]
        return out

    def expired(self, due: int) -> list[Event]:
        old = [h.event for h in self._held if h.event[0] + _LONGEST_HOLD <= due]
        if old:
            self._held = [h for h in self._held if h.event[0] + _LONGEST_HOLD > due]
        return old


def shifted(event: Event, ms: int) -> Event:
    """The event with every exchange stamp in its frame moved by `ms`."""
    time, key, frame = event
    return time, key, _STAMPS.sub(lambda m: m[1] + b"%d" % (int(m[2]) + ms), frame)
