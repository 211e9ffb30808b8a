"""From simulated ticks to websocket frames: the part that all venues share.

A writer per venue (`venue_frames`) turns the fills and quotes of a span into timed frames per
channel. It keeps what has to run on from span to span: ids and the order of pushes. All numbers
are drawn whatever channels are wanted, so a stream's frames don't depend on which others are made.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
import numpy.typing as npt

from ingest.simulator.flow import Fills, Quotes
from ingest.simulator.listings import Listing
from ingest.ticks import I64

MS = 1_000_000


@dataclass(slots=True)
class Pushed:
    """The frames of one stream over a span and when (ns since the epoch) each is pushed."""

    key: str
    time: I64
    frames: list[bytes]


class Texts(dict[int, bytes]):
    """Decimal text of whole ticks or lots, remembered: markets repeat themselves."""

    def __init__(self, text: Callable[[int], str]) -> None:
        self._text = text

    def __missing__(self, number: int) -> bytes:
        if len(self) > 200_000:
            self.clear()
        value = self[number] = self._text(number).encode()
        return value

    def of(self, numbers: npt.NDArray[Any]) -> Iterator[bytes]:
        return map(self.__getitem__, numbers.tolist())


class Writer:
    """Writes one instrument's frames. `channels` begins with the usual trades and the quotes."""

    channels: ClassVar[tuple[str, ...]]
    lag: ClassVar[float]  # ns from the match to the push, the median

    def __init__(self, listing: Listing, seed: int, epoch: int) -> None:
        name = f"{listing.exchange}|{listing.native}".encode()
        self.listing = listing
        self._native = listing.native.encode()
        self._epoch = epoch
        self._rng = np.random.default_rng([seed, 5, crc32(name)])
        self._last_push: dict[str, int] = {}
        self._trades = int(self._rng.integers(10**9, 9 * 10**9))
        self._sequence = int(self._rng.integers(10**11, 9 * 10**12))
        self._price = Texts(self._price_text)
        self._size = Texts(self._size_text)

    def write(self, fills: Fills, quotes: Quotes, wanted: Collection[str]) -> list[Pushed]:
        """The frames of the channels that are `wanted`."""
        raise NotImplementedError

    def _price_text(self, ticks: int) -> str:
        return f"{ticks * self.listing.tick:.{self.listing.price_decimals}f}"

    def _size_text(self, lots: int) -> str:
        return f"{lots * self.listing.lot:.{self.listing.size_decimals}f}"

    def _lags(self, n: int) -> I64:
        return self._rng.lognormal(np.log(self.lag), 0.5, n).astype(np.int64)

    def _pushes(self, channel: str, time: I64, lag: I64) -> I64:
        """Push times (ns since the epoch) of a stream, never decreasing."""
        if not len(time):
            return time
        push = self._epoch + time + lag
        push[0] = max(int(push[0]), self._last_push.get(channel, 0))
        push = np.maximum.accumulate(push)
        self._last_push[channel] = int(push[-1])
        return push

    def _ms(self, time: I64) -> list[int]:
        stamps: list[int] = ((self._epoch + time) // MS).tolist()
        return stamps

    def _take_ids(self, n: int) -> I64:
        """The next n trade ids, contiguous."""
        ids = np.arange(self._trades + 1, self._trades + 1 + n)
        self._trades += n
        return ids

    def key(self, channel: str) -> str:
        """The stream key of a channel of this instrument."""
        return f"{channel}:{self.listing.native}"


def trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def run_starts(keys: I64) -> I64:
    """Where each run of equal keys begins."""
    if not len(keys):
        return np.empty(0, np.int64)
    return np.concatenate(([0], np.flatnonzero(np.diff(keys)) + 1))


def order_groups(fills: Fills, kept: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Row ranges [a, b) of one taker order at one price, of the rows that are kept."""
    changed = (np.diff(fills.order) != 0) | (np.diff(fills.price) != 0)
    starts = run_starts(np.concatenate(([0], np.cumsum(changed)))[: len(fills.order)])
    ends = np.append(starts[1:], len(fills.order))
    pairs: Iterable[tuple[int, int]] = zip(starts.tolist(), ends.tolist(), strict=False)
    return [(a, b) for a, b in pairs if kept[a]]


def join_runs(head: bytes, rows: list[bytes], starts: I64) -> list[bytes]:
    """A frame per run of rows."""
    begin = starts.tolist()
    end = [*begin[1:], len(rows)] if begin else []
    return [head + b",".join(rows[a:b]) + b"]}" for a, b in zip(begin, end, strict=True)]


def blank_out(levels: list[bytes], where: npt.NDArray[np.bool_], empty: bytes) -> None:
    """Put the venue's sign of an empty side in place of some levels."""
    for i in np.flatnonzero(where).tolist():
        levels[i] = empty
