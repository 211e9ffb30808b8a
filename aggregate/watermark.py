"""Time of a shard in one partition: the smallest promise of its live sessions (DESIGN 3).

Only control records move it. A collector's later session ends its earlier one; a session that
ended or was evicted holds time back no longer; time itself never steps back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NO_TIME = -1
"""The time before any promise."""


@dataclass(slots=True)
class _Session:
    name: str
    promise: int
    live: bool = True


@dataclass(slots=True)
class ShardTime:
    """Sessions by topic and collector, and the time (ns) they promise together."""

    topics: tuple[str, ...]
    now: int = NO_TIME
    _reached: dict[str, int] = field(default_factory=dict)
    _sessions: dict[str, dict[str, _Session]] = field(default_factory=dict)

    def start(self, topic: str, collector: str, session: str, local_ts: int) -> None:
        # The log's order decides, not the names: a clock may have been set back in between.
        self._sessions.setdefault(topic, {})[collector] = _Session(session, local_ts)

    def promise(self, topic: str, collector: str, session: str, local_ts: int) -> None:
        known = self._current(topic, collector, session)
        if known is None:
            return
        known.promise = max(known.promise, local_ts)
        # An evicted session that has caught up holds time again.
        known.live = known.live or known.promise >= self.now
        self._move(topic)

    def end(self, topic: str, collector: str, session: str) -> None:
        """The session ended or was evicted: it holds time back no longer."""
        known = self._current(topic, collector, session)
        if known is not None:
            known.live = False
            self._move(topic)

    def lagging(self, limit_ns: int) -> list[tuple[str, str, str]]:
        """(topic, collector, session) of live sessions more than `limit_ns` behind the fastest.

        Compared within a topic: how far each topic has been read says nothing of a session.
        """
        out = []
        for topic, of in self._sessions.items():
            live = {who: session for who, session in of.items() if session.live}
            fastest = max((session.promise for session in live.values()), default=0)
            out += [
                (topic, who, session.name)
                for who, session in live.items()
                if fastest - session.promise > limit_ns
            ]
        return out

    def _current(self, topic: str, collector: str, session: str) -> _Session | None:
        known = self._sessions.get(topic, {}).get(collector)
        return known if known is not None and known.name == session else None

    def _move(self, topic: str) -> None:
        """A topic's time is its least live promise, kept when its last session ends."""
        live = [s.promise for s in self._sessions[topic].values() if s.live]
        if live:
            self._reached[topic] = max(self._reached.get(topic, NO_TIME), min(live))
        self.now = max(self.now, min(self._reached.get(t, NO_TIME) for t in self.topics))

    def dump(self) -> dict[str, Any]:
        return {
            "now": self.now,
            "reached": self._reached,
            "sessions": [
                [topic, collector, session.name, session.promise, session.live]
                for topic, of in self._sessions.items()
                for collector, session in of.items()
            ],
        }

    def load(self, dumped: Mapping[str, Any]) -> None:
        self.now = dumped["now"]
        self._reached = dict(dumped["reached"])
        for topic, collector, name, promise, live in dumped["sessions"]:
            self._sessions.setdefault(topic, {})[collector] = _Session(name, promise, live)
