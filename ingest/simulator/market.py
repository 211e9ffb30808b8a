"""A seeded market of one venue: its websocket frames, in the order they are pushed.

Everything follows from (seed, exchange, natives, start, intensity): the same market gives the
same frames with the same stamps however it is read. Markets of the three venues with one seed
trade around the same underlying prices.
"""

from collections.abc import Collection, Iterator, Sequence
from math import inf

import numpy as np

from ingest.simulator.flow import SECOND, Flow
from ingest.simulator.frames import Pushed
from ingest.simulator.listings import DEFAULT_NATIVES, HYPERLIQUID, listing
from ingest.simulator.prices import Prices
from ingest.simulator.venue_frames import WRITERS

Event = tuple[int, str, bytes]
"""(push time in ns since the epoch, stream key, frame). A stream key is the venue's own name for
the stream: "btcusdt@trade" on Binance, "channel:instrument" on the others."""

_FRAMES_A_SPAN = 4_000
_FRAMES_PER_SECOND = 25.0  # of an instrument of weight 1 at intensity 1, roughly


class Market:
    """`events()` walks forward from `start_ns`; it may be called once.

    `natives` are the venue's own names (default: four, the last of them quiet), `channels` the
    venue's channels (default: all of those simulated), `intensity` scales how much happens: at 1
    the busiest instrument makes about 25 frames a second. No frame is pushed, and no exchange
    stamp lies, before `start_ns`. Raises ValueError for what is unknown or empty.
    """

    def __init__(
        self,
        seed: int,
        exchange: str,
        natives: Sequence[str] | None = None,
        start_ns: int = 0,
        *,
        channels: Collection[str] | None = None,
        intensity: float = 1.0,
    ) -> None:
        if exchange not in WRITERS:
            raise ValueError(f"unknown exchange {exchange!r}; known: {', '.join(WRITERS)}")
        natives = DEFAULT_NATIVES[exchange] if natives is None else tuple(dict.fromkeys(natives))
        if not natives or not 0 < intensity < inf:
            raise ValueError(f"nothing to simulate: {natives!r} at intensity {intensity}")
        self.exchange = exchange
        self.start_ns = start_ns
        self.listings = [listing(exchange, native) for native in natives]
        writer = WRITERS[exchange]
        self.channels = tuple(writer.channels if channels is None else channels)
        unknown = set(self.channels) - set(writer.channels)
        if unknown:
            raise ValueError(f"{exchange} has no channel {', '.join(sorted(unknown))}")
        self.writers = [writer(item, seed, start_ns) for item in self.listings]
        busy = intensity * sum(item.weight for item in self.listings) * _FRAMES_PER_SECOND
        self._span = _power_of_two(_FRAMES_A_SPAN / busy)
        self._prices = Prices(seed, sorted({item.asset for item in self.listings}))
        self._flows = [Flow(item, seed, intensity, -self._span * SECOND) for item in self.listings]
        before = self._advance()
        self.history = [
            p for p in before if exchange == HYPERLIQUID and p.key.startswith("trades:")
        ]
        """Trades just before the start: what Hyperliquid's first backlog frame is made of."""

    def events(self) -> Iterator[list[Event]]:
        """Endless lists of events in time order; each list goes on where the last one ended."""
        end = self.start_ns
        held: list[Pushed] = []
        while True:
            end += self._span * SECOND
            events = _merged([*held, *self._advance()])
            cut = len(events)
            while cut and events[cut - 1][0] >= end:
                cut -= 1
            held = [Pushed(k, np.array([t]), [f]) for t, k, f in events[cut:]]
            yield events[:cut]

    def _advance(self) -> list[Pushed]:
        activity, paths = self._prices.advance(self._span)
        pushed: list[Pushed] = []
        for item, flow, writer in zip(self.listings, self._flows, self.writers, strict=True):
            fills, quotes = flow.advance(activity, paths[item.asset])
            pushed += writer.write(fills, quotes, self.channels)
        return pushed


def _merged(pushed: Sequence[Pushed]) -> list[Event]:
    """All frames in time order; of equal times, earlier streams first."""
    times = np.concatenate([p.time for p in pushed])
    order = np.argsort(times, kind="stable")
    keys = [key for p in pushed for key in [p.key] * len(p.frames)]
    frames = [frame for p in pushed for frame in p.frames]
    stamps = times[order].tolist()
    return [(t, keys[i], frames[i]) for t, i in zip(stamps, order.tolist(), strict=True)]


def _power_of_two(seconds: float) -> int:
    """Between 1 and 1024: long enough for the arithmetic to pay, short enough to start at once."""
    return 1 << int(np.clip(np.rint(np.log2(seconds)), 0, 10))
