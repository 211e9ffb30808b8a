"""What venues do to their instruments while they run: listing, delisting, other contract sizes.

Pure: a script of changes, and what is listed and pushed by it at a time of the market.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ingest.simulator.listings import BINANCE, Listing


@dataclass(frozen=True, slots=True)
class Change:
    """`at_s` seconds of market time after the feed's origin.

    `trading` True: the instrument is listed then, and was not before; False: it is delisted then,
    and pushes nothing more; None: only its `contract_size` changes.
    """

    at_s: float
    exchange: str
    native: str
    trading: bool | None = None
    contract_size: float | None = None


class ListingChanges:
    """The changes of one exchange."""

    def __init__(self, exchange: str, changes: Iterable[Change]) -> None:
        mine = sorted((c for c in changes if c.exchange == exchange), key=lambda c: c.at_s)
        self._by_native: dict[str, list[tuple[int, Change]]] = {}
        for change in mine:
            at = round(change.at_s * 1e9)
            self._by_native.setdefault(change.native, []).append((at, change))
        self._keyed = {_in_keys(exchange, native): native for native in self._by_native}

    def listed(self, listings: Sequence[Listing], since: int) -> list[Listing]:
        """The instruments as the venue lists them `since` ns after the origin."""
        found = []
        for listing in listings:
            changes = self._by_native.get(listing.native, [])
            past = [change for at, change in changes if at <= since]
            if changes and changes[0][1].trading is True and not past:
                continue
            for change in past:
                if change.trading is not None:
                    listing = replace(listing, trading=change.trading)
                if change.contract_size is not None:
                    listing = replace(listing, contract_size=change.contract_size)
            found.append(listing)
        return found

    def silent(self, key: str, since: int) -> bool:
        """Whether a stream pushes nothing, as its instrument is not trading."""
        if not self._keyed:
            return False
        native = self._keyed.get(key.partition("@")[0] if "@" in key else key.partition(":")[2])
        if native is None:
            return False
        trading = [(at, c.trading) for at, c in self._by_native[native] if c.trading is not None]
        past = [state for at, state in trading if at <= since]
        return not past[-1] if past else bool(trading and trading[0][1])


def _in_keys(exchange: str, native: str) -> str:
    """An instrument's name in stream keys: "btcusdt@trade", "trades:BTC"."""
    return native.lower() if exchange == BINANCE else native
