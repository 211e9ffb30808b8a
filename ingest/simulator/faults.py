"""What goes wrong with connections: a seeded or written script of faults, played by the simulator.

    SILENT      streams stop without a word, subscribed as before; subscribing them again is
                acknowledged, nothing sent
    HALF_OPEN   the connection stays up, but nothing is read or sent any more
    CLOSE       closed with `code`; 1006 breaks the TCP connection without a close frame
    REFUSE      subscriptions are answered with the venue's error
    NOTICE      OKX's 64008, and the close it announces after `seconds`
    STORM       every connection is closed (1012) as soon as it is open
    BINARY, HUGE, MALFORMED, TRUNCATED   one frame that no parser should trust

SILENT, REFUSE and STORM last `seconds`, and SILENT heals for connections opened afterwards. All
times are the market's: a simulator that runs faster plays its script faster.
"""

import random
import re
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from ingest.simulator.listings import BINANCE, HYPERLIQUID, OKX
from ingest.simulator.protocols import Action, Subscribe

if TYPE_CHECKING:
    from ingest.simulator.connection import Connection

SILENT = "silent"
HALF_OPEN = "half-open"
CLOSE = "close"
REFUSE = "refuse"
NOTICE = "notice"
STORM = "storm"
BINARY = "binary"
HUGE = "huge"
MALFORMED = "malformed"
TRUNCATED = "truncated"
KINDS = (SILENT, HALF_OPEN, CLOSE, REFUSE, NOTICE, STORM, BINARY, HUGE, MALFORMED, TRUNCATED)
FRAMES = (BINARY, HUGE, MALFORMED, TRUNCATED)
CODES = (1001, 1006, 1012)
HUGE_BYTES = 3 << 20
_TEXT, _BINARY = 0x81, 0x82


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, `at` seconds after the market's start, for `exchange` ("": all).

    `streams` is a regular expression of the stream keys it strikes ("": all), for REFUSE and
    SILENT; `size` is that of a HUGE frame in bytes.
    """

    at: float
    kind: str
    exchange: str = ""
    seconds: float = 0.0
    streams: str = ""
    code: int = 1006
    size: int = HUGE_BYTES

    def strikes(self, exchange: str) -> bool:
        return self.exchange in ("", exchange)

    def matches(self, key: str) -> bool:
        return re.search(self.streams, key) is not None


def script(
    seed: int,
    span: float,
    exchanges: Sequence[str],
    *,
    per_minute: float = 6.0,
    kinds: Sequence[str] = KINDS,
) -> list[Fault]:
    """A random script over `span` seconds; the same for the same arguments."""
    dice = random.Random(seed)
    faults = []
    at = dice.expovariate(per_minute / 60)
    while at < span:
        kind = dice.choice(kinds)
        exchange = OKX if kind == NOTICE else dice.choice(list(exchanges))
        seconds = dice.uniform(1.0, 5.0)
        code = dice.choice(CODES)
        faults.append(Fault(round(at, 3), kind, exchange, round(seconds, 3), code=code))
        at += dice.expovariate(per_minute / 60)
    return faults


class ConnectionFaults:
    """Plays a script on the connections of a simulator.

    `struck` counts the faults by kind, `hits` the connections they struck by (kind, exchange): so
    many bad frames were sent, say. `strike` applies one fault at once, for tests that don't want
    to wait for its time.
    """

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self.struck: Counter[str] = Counter()
        self.hits: Counter[tuple[str, str]] = Counter()
        self._faults = deque(sorted(faults, key=lambda fault: fault.at))
        self._now = 0.0
        self._lasting: list[tuple[float, Fault]] = []
        self._leaving: list[tuple[float, Connection]] = []
        self._connections: list[Connection] = []
        self._silence: Callable[[Connection, Sequence[str]], None] = lambda connection, keys: None

    def attach(self, silence: "Callable[[Connection, Sequence[str]], None]") -> None:
        """Given by the simulator: how to stop streams of a connection without telling it."""
        self._silence = silence

    def strike(self, fault: Fault) -> None:
        """Apply the fault now."""
        if fault.kind not in KINDS:
            raise ValueError(f"{fault.kind!r} is no fault: use one of {', '.join(KINDS)}")
        self.struck[fault.kind] += 1
        if fault.kind in (SILENT, REFUSE, STORM):
            self._lasting.append((self._now + fault.seconds, fault))
        for connection in [c for c in self._connections if fault.strikes(c.exchange)]:
            self._hit(connection, fault)

    def heal(self) -> None:
        """End the faults that last, now."""
        self._lasting.clear()

    # -- what the simulator tells

    def advance(self, seconds: float) -> None:
        """The market has come so far since its start: play what is due."""
        self._now = max(self._now, seconds)
        while self._faults and self._faults[0].at <= self._now:
            self.strike(self._faults.popleft())
        for _, connection in [leaving for leaving in self._leaving if leaving[0] <= self._now]:
            connection.close(1001, "service upgrade")
        self._leaving = [leaving for leaving in self._leaving if leaving[0] > self._now]

    def opened(self, connection: "Connection") -> None:
        self._connections.append(connection)
        if any(fault.kind == STORM for fault in self._active(connection)):
            self.hits[STORM, connection.exchange] += 1
            connection.close(1012, "service restart")

    def closed(self, connection: "Connection") -> None:
        if connection in self._connections:
            self._connections.remove(connection)

    def answered(self, connection: "Connection", actions: Sequence[Action]) -> list[Action]:
        """The venue's actions, as a faulty venue takes them."""
        active = self._active(connection)
        refusing = [f for f in active if f.kind == REFUSE]
        silent = [f for f in active if f.kind == SILENT]
        out: list[Action] = []
        for action in actions:
            if not isinstance(action, Subscribe):
                out.append(action)
                continue
            if refused := [k for k in action.keys if any(f.matches(k) for f in refusing)]:
                out[-1:] = [_refusal(connection.exchange, key) for key in _answers(refused)]
                connection.session.keys.difference_update(action.keys)
                self.hits[REFUSE, connection.exchange] += len(_answers(refused))
                continue
            kept = [k for k in action.keys if not any(f.matches(k) for f in silent)]
            out.append(Subscribe(tuple(kept)))
        return out

    # -- what is done

    def _active(self, connection: "Connection") -> list[Fault]:
        self._lasting = [(until, fault) for until, fault in self._lasting if until > self._now]
        return [fault for _, fault in self._lasting if fault.strikes(connection.exchange)]

    def _hit(self, connection: "Connection", fault: Fault) -> None:
        if not connection.is_open or fault.kind == REFUSE:
            return
        self.hits[fault.kind, connection.exchange] += 1
        if fault.kind == SILENT:
            self._silence(connection, [k for k in connection.session.keys if fault.matches(k)])
        elif fault.kind == HALF_OPEN:
            connection.stall()
        elif fault.kind == CLOSE:
            _close(connection, fault.code)
        elif fault.kind == STORM:
            connection.close(1012, "service restart")
        elif fault.kind == NOTICE:
            self._announce(connection, fault.seconds)
        elif fault.kind in FRAMES:
            connection.outbox.append(_bad_frame(fault))
            connection.flush()

    def _announce(self, connection: "Connection", seconds: float) -> None:
        text = "The connection will soon be closed for a service upgrade. Please reconnect."
        notice = {"event": "notice", "code": "64008", "msg": text, "connId": "a4d3ae55"}
        connection.outbox.append(_wire(_TEXT, orjson.dumps(notice)))
        connection.flush()
        self._leaving.append((self._now + seconds, connection))


def _close(connection: "Connection", code: int) -> None:
    if code == 1006:
        connection.abort()
    else:
        connection.close(code, {1001: "going away", 1012: "service restart"}.get(code, ""))


def _answers(refused: list[str]) -> list[str]:
    """A Binance request is refused as a whole, with one answer; the others answer one by one."""
    return refused[:1] if "@" in refused[0] else refused


def _refusal(exchange: str, key: str) -> bytes:
    """What the venue says to a subscription of the stream `key` that it doesn't take."""
    channel, _, native = key.partition(":")
    if exchange == OKX:
        text = f"Wrong URL or channel:{channel},instId:{native} doesn't exist. Please use …"
        return orjson.dumps({"event": "error", "code": "60018", "msg": text, "connId": "a4d3ae55"})
    if exchange == HYPERLIQUID:
        wanted = orjson.dumps({"type": channel, "coin": native}).decode()
        return orjson.dumps({"channel": "error", "data": f"Invalid subscription {wanted}"})
    assert exchange == BINANCE
    return orjson.dumps({"error": {"code": 2, "msg": "Invalid request: refused"}, "id": 1})


def _bad_frame(fault: Fault) -> bytes:
    if fault.kind == BINARY:
        return _wire(_BINARY, b"\x1f\x8b\x08\x00" + bytes(range(256)))
    if fault.kind == HUGE:
        return _wire(_TEXT, b'{"huge":"' + b"x" * fault.size + b'"}')
    if fault.kind == TRUNCATED:
        return _wire(_TEXT, b'{"stream":"btcusdt@trade","data":{"e":"trade","E":17918')
    return _wire(_TEXT, b'{"data":[{"px":NaN,}],,"channel":}')


def _wire(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload
