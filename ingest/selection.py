"""Which of a venue's listed instruments are wanted: patterns over native and Atlas ids. Pure.

    BTCUSDT  xyz:TSLA  perpetual-BTC-USDT:USDT    one instrument, by its native or Atlas id
    BTC*  *-USDT-SWAP  xyz:*                      * ? [a-z] over native ids,
    *-USDT  perpetual-*:USDC                      Atlas ids, and their BASE-QUOTE ("BTC-USDT")
    all                                           every one

Upper and lower case differ, as they do in the venues' ids. Only what trades is selected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from ingest.instruments import HYPERLIQUID, Instrument, Listed

ALL = "all"
_PERPETUAL = "perpetual-"


@dataclass(frozen=True, slots=True)
class Selection:
    """What patterns select: `instruments` by the order of the patterns, then of the list.

    `unmatched` tells, for each pattern that selects nothing, the pattern and why; `doubled` each
    instrument left out because another one selected has its Atlas id.
    """

    instruments: tuple[Instrument, ...]
    unmatched: tuple[str, ...]
    doubled: tuple[str, ...]


def select(listed: Sequence[Listed], patterns: Sequence[str]) -> Selection:
    """The instruments in trading state that match one of the patterns."""
    chosen: dict[str, Instrument] = {}
    unmatched, doubled = [], []
    for pattern in patterns:
        matching = matches(listed, pattern)
        trading = [item.instrument for item in matching if item.trading]
        if not trading:
            unmatched.append(_why(pattern, matching, listed))
        for instrument in trading:
            first = chosen.setdefault(instrument.symbol, instrument)
            if first.native != instrument.native:
                doubled.append(f"{instrument.native!r} has the Atlas id of {first.native!r}")
    return Selection(tuple(chosen.values()), tuple(unmatched), tuple(dict.fromkeys(doubled)))


def matches(listed: Sequence[Listed], pattern: str) -> list[Listed]:
    """What a pattern means, whatever its status."""
    if pattern == ALL:
        return list(listed)
    # A name as it stands first: HIP-3 names may hold "*" and "?".
    exact = [i for i in listed if pattern in (i.instrument.native, i.instrument.symbol)]
    return exact or [item for item in listed if _matches(item.instrument, pattern)]


def is_glob(pattern: str) -> bool:
    """Whether a pattern may mean several instruments."""
    return pattern == ALL or any(mark in pattern for mark in "*?[")


def dexes_of(exchange: str, patterns: Sequence[str], dexes: Sequence[str]) -> list[str]:
    """The Hyperliquid dexes whose lists are needed, "" being its own; [""] for other venues.

    A HIP-3 dex is needed if it is in `dexes` or a pattern starts with its name (`xyz:*`).
    """
    if exchange != HYPERLIQUID:
        return [""]
    named = {_dex(pattern) for pattern in patterns}
    return sorted({*named, *dexes})


def _dex(pattern: str) -> str:
    """The dex a pattern names: xyz of "xyz:TSLA" and of "perpetual-XYZ:TSLA-USDC:USDC"."""
    atlas = pattern.startswith(_PERPETUAL)
    base = pattern.removeprefix(_PERPETUAL).partition("-")[0] if atlas else pattern
    dex, colon, _ = base.partition(":")
    if not colon or is_glob(dex):
        return ""
    return dex.lower() if atlas else dex


def _matches(instrument: Instrument, pattern: str) -> bool:
    if not is_glob(pattern):
        return False
    pair = instrument.symbol.removeprefix(_PERPETUAL).rpartition(":")[0]
    names = (instrument.native, instrument.symbol, pair)
    return any(fnmatchcase(name, pattern) for name in names)


def _why(pattern: str, matching: Sequence[Listed], listed: Sequence[Listed]) -> str:
    if matching:
        statuses = ", ".join(sorted({item.status or "without a status" for item in matching}))
        return f"{pattern!r} (not trading: {statuses})"
    natives = [item.instrument.native for item in listed if item.trading]
    close = [] if is_glob(pattern) else get_close_matches(pattern, natives, n=1, cutoff=0.7)
    return f"{pattern!r} (did you mean {close[0]!r}?)" if close else repr(pattern)
