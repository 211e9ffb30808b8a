"""From when an instrument's data is complete: when all of its subscriptions stand. Pure."""

from collections.abc import Collection


class Covering:
    """The instruments, by native id, of which that can't be said yet.

    Each is on its own: one that the venue never accepts holds no other back, and is never claimed.
    """

    def __init__(self, natives: Collection[str]) -> None:
        self._waiting = dict.fromkeys(natives, False)

    def __bool__(self) -> bool:
        """Whether any is waited for."""
        return bool(self._waiting)

    def listed(self, natives: Collection[str]) -> None:
        """They trade from now on: what was complete before they were delisted is over."""
        self._waiting |= dict.fromkeys(natives, True)

    def gone(self, natives: Collection[str]) -> None:
        for native in natives:
            self._waiting.pop(native, None)

    def take(self, standing: Collection[str]) -> dict[str, bool]:
        """Of those whose subscriptions all stand: which are complete now, each once, and whether
        anew (listed meanwhile)."""
        ready = {native: anew for native, anew in self._waiting.items() if native in standing}
        self.gone(ready)
        return ready
