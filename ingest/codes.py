"""Numbers for symbols that stay as they are while instruments come and go. Pure."""

from collections.abc import Sequence

import numpy as np

from ingest.ticks import I64, Trades


class Codes:
    """Own codes for symbols: those of a batch may change when instruments are listed."""

    def __init__(self) -> None:
        self.symbols: list[str] = []
        self._index: dict[str, int] = {}
        self._of: Sequence[str] = ()
        self._map: I64 = np.empty(0, np.int64)

    def of(self, trades: Trades) -> I64:
        symbols = trades.symbols
        if symbols is not self._of or len(symbols) != len(self._map):
            for symbol in symbols:
                if symbol not in self._index:
                    self._index[symbol] = len(self.symbols)
                    self.symbols.append(symbol)
            self._of = symbols
            self._map = np.array([self._index[s] for s in symbols], np.int64)
        codes: I64 = self._map[trades.code]
        return codes
