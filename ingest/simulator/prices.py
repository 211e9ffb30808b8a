"""What every venue of a simulated market shares: the assets' prices and how busy the hour is.

One common factor moves all assets by their beta, each adds moves of its own, and an activity
level with minutes of memory scales both volatility and order flow. Venues built with the same
seed walk through the same prices (to rounding, if they advance in steps of other lengths).
"""

import math
from itertools import accumulate
from zlib import crc32

import numpy as np

from ingest.ticks import F64

STEPS_PER_SECOND = 4
_YEAR_SECONDS = 365.25 * 86_400

# asset: price in USD, beta to the common factor, annual volatility of its own
_ASSETS = {
    "BTC": (85_300.0, 1.0, 0.10),
    "ETH": (3_020.0, 1.2, 0.25),
    "SOL": (141.0, 1.4, 0.40),
    "AAVE": (186.0, 1.3, 0.50),
    "XMR": (332.0, 0.5, 0.45),
    "PEPE": (0.0000121, 1.7, 0.70),
    "TSLA": (412.0, 0.4, 0.45),
}
_FACTOR_VOLATILITY = 0.45
_MEMORY_SECONDS = 90.0
_ACTIVITY_SPREAD = 0.7


class Prices:
    """Prices of `assets` on a grid of 250 ms steps, walked forward from market time 0."""

    def __init__(self, seed: int, assets: list[str]) -> None:
        self._factor = np.random.default_rng([seed, 1])
        self._busy = np.random.default_rng([seed, 2])
        self._own = {a: np.random.default_rng([seed, 3, crc32(a.encode())]) for a in assets}
        self._level = {a: math.log(_ASSETS[a][0]) for a in assets}
        self._log_activity = 0.0
        self._seconds = 0

    def advance(self, seconds: int) -> tuple[F64, dict[str, F64]]:
        """The next `seconds`: activity per second (mean about 1) and log prices per asset.

        A price array has 4·seconds + 1 points: both ends of the span are in it.
        """
        activity = self._activity(seconds)
        step = np.sqrt(np.repeat(activity, STEPS_PER_SECOND) / STEPS_PER_SECOND / _YEAR_SECONDS)
        common = _FACTOR_VOLATILITY * step * self._factor.standard_normal(len(step))
        paths = {}
        for asset, rng in self._own.items():
            _, beta, volatility = _ASSETS[asset]
            moves = beta * common + volatility * step * rng.standard_normal(len(step))
            path = self._level[asset] + np.concatenate(([0.0], np.cumsum(moves)))
            self._level[asset] = float(path[-1])
            paths[asset] = path
        return activity, paths

    def _activity(self, seconds: int) -> F64:
        keep = math.exp(-1 / _MEMORY_SECONDS)
        shocks = self._busy.standard_normal(seconds) * _ACTIVITY_SPREAD * math.sqrt(1 - keep**2)
        walk = accumulate(
            shocks.tolist(), lambda level, shock: keep * level + shock, initial=self._log_activity
        )
        levels = np.array(list(walk))
        self._log_activity = float(levels[-1])
        day = (self._seconds + np.arange(seconds)) * (2 * math.pi / 86_400)
        self._seconds += seconds
        result: F64 = np.exp(levels[1:] - _ACTIVITY_SPREAD**2 / 2) * (1 + 0.4 * np.sin(day))
        return result
