"""Symbols that were delisted: what is behind their last trade only the venue knows. Pure."""


class Ended:
    """Delisted symbols whose streams may bring something still."""

    def __init__(self) -> None:
        self._until: dict[str, int] = {}

    def add(self, symbol: str, until: int) -> None:
        """Its streams are left by `until` (ns, arrival)."""
        self._until[symbol] = until

    def due(self, now: int | None) -> list[tuple[str, int]]:
        """(symbol, until) of those that are over at `now`, each once; None: of all."""
        over = [(s, at) for s, at in self._until.items() if now is None or at <= now]
        for symbol, _ in over:
            del self._until[symbol]
        return over
