"""The registry: adding a dataset is one file beside this one and one line here."""

from aggregate.datasets.base import Dataset, Memory, Merge
from aggregate.datasets.flow import Flow
from aggregate.datasets.l1_imbalance import L1Imbalance
from aggregate.datasets.l1_liquidity import L1Liquidity
from aggregate.datasets.l1_price import L1Price
from aggregate.datasets.ohlcv import Ohlcv
from aggregate.datasets.vtwap import Vtwap

__all__ = ["Dataset", "Memory", "Merge", "datasets"]


def datasets(toxicity_reset: str = "month") -> tuple[Dataset, ...]:
    """Every dataset, in a fixed order."""
    return (
        Flow(toxicity_reset),
        Ohlcv(),
        Vtwap(),
        L1Imbalance(),
        L1Liquidity(),
        L1Price(),
    )
