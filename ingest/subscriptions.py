"""What one connection carries: asked for, confirmed, refused, and asked for again. Pure.

The connection is opened for an endpoint's channels; later some come and others go on the running
connection. A subscription that is refused, or not answered, doesn't touch the others: it is asked
for again `RETRIES` times, ever more rarely, then given up until the next connection.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from ingest.venues import Channel, Endpoint, Notice

RETRY_S = 30.0
"""From a refusal to the first retry; doubles."""
RETRIES = 5
LINGER_S = 5.0
"""From a delisting, which REST tells, until its streams are left: their last ticks may lag."""


@dataclass(slots=True)
class Due:
    """Subscriptions to leave, to ask for, to ask for again, and given up."""

    leave: list[Channel] = field(default_factory=list)
    new: list[Channel] = field(default_factory=list)
    again: list[Channel] = field(default_factory=list)
    given_up: list[Channel] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.leave or self.new or self.again or self.given_up)


@dataclass(slots=True)
class _Asked:
    retry_at: float
    tries: int = 0


class Subscriptions:
    """Of one connection; times are in seconds on any one clock."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._wanted = dict.fromkeys(endpoint.channels)
        self._expected = endpoint.acks
        self._open = set(endpoint.channels)
        self._answers = 0
        self._asked: dict[Channel, _Asked] = {}
        self._confirmed: set[Channel] = set()
        self._ever_confirmed = False
        self._leave: list[Channel] = []
        self._lingering: dict[Channel, float | None] = {}
        # What a request was for, where an answer names the request alone (Binance).
        self._requests: dict[str, Sequence[Channel]] = {"1": endpoint.channels}
        self._number = 1

    @property
    def answered(self) -> bool:
        """Whether everything the connection was opened for was answered, some perhaps refused."""
        return self._answers >= self._expected

    @property
    def hopeless(self) -> bool:
        """Whether all of it was refused."""
        return self.answered and not self._ever_confirmed

    @property
    def wanted(self) -> Collection[Channel]:
        return self._wanted.keys()

    @property
    def confirmed(self) -> set[Channel]:
        """Those that the venue has confirmed."""
        return set(self._confirmed)

    @property
    def refused(self) -> list[Channel]:
        """Those that are wanted and not confirmed."""
        return [channel for channel in self._wanted if channel not in self._confirmed]

    def want(self, channels: Iterable[Channel]) -> None:
        """Carry these from now on."""
        wanted = dict.fromkeys(channels)
        gone = [channel for channel in self._wanted if channel not in wanted]
        self._forget(gone)
        self._lingering |= dict.fromkeys(gone)
        for channel in wanted:
            self._lingering.pop(channel, None)
        self._leave = [channel for channel in self._leave if channel not in wanted]
        self._wanted = wanted

    def renew(self, channels: Iterable[Channel]) -> None:
        """Leave these and subscribe them again: they stand but send nothing."""
        standing = [channel for channel in channels if channel in self._confirmed]
        self._leave += standing
        self._forget(standing)

    def _forget(self, channels: Sequence[Channel]) -> None:
        self._confirmed.difference_update(channels)
        for channel in channels:
            self._asked.pop(channel, None)

    def acknowledged(self, notice: Notice) -> set[Channel]:
        """The subscriptions that stand now and did not before."""
        named = (notice.channel, notice.native)
        channels = [named] if notice.channel else self._requests.get(notice.number, ())
        new = {c for c in channels if c in self._wanted} - self._confirmed
        if not notice.channel or named in self._open:  # OKX repeats acks: they answer nothing more
            self._open.discard(named)
            self._answers += not self.answered
        self._confirmed |= new
        self._ever_confirmed |= bool(new)
        for channel in new:
            self._asked.pop(channel, None)
        return new

    def refuse(self, notice: Notice) -> list[str]:
        """The symbols that a refusal is about, as far as it says."""
        self._answers += not self.answered
        if notice.native:
            return [notice.native]
        # One that names nothing can only be told where there was but one request.
        alone = self._expected == 1 and len(self._requests) == 1
        about = self._requests.get(notice.number or ("1" if alone else ""), ())
        return sorted({native for _, native in about})

    def due(self, now: float) -> Due:
        """What to ask the venue for now that the connection stands."""
        for channel, at in list(self._lingering.items()):
            if at is None:
                self._lingering[channel] = now + LINGER_S
            elif now >= at:
                self._leave.append(channel)
                del self._lingering[channel]
        due = Due(leave=self._leave)
        self._leave = []
        for channel in self.refused:
            asked = self._asked.get(channel)
            if asked is None:
                due.new.append(channel)
                self._asked[channel] = _Asked(now + RETRY_S)
            elif now > asked.retry_at and asked.tries < RETRIES:
                asked.tries += 1
                asked.retry_at = now + RETRY_S * 2**asked.tries
                due.again.append(channel)
            elif now > asked.retry_at and asked.tries == RETRIES:
                asked.tries += 1
                due.given_up.append(channel)
        return due

    def opened(self, now: float) -> None:
        """What the connection was opened for has been answered: what was refused waits."""
        for channel in self.refused:
            self._asked.setdefault(channel, _Asked(now + RETRY_S))

    def number(self, channels: Sequence[Channel]) -> int:
        """The id of a new request for these channels."""
        self._number += 1
        self._requests[str(self._number)] = channels
        if len(self._requests) > 64:  # long answered
            del self._requests[next(iter(self._requests))]
        return self._number
