"""flow's finishing formulas against the rows of real files that DATASETS.md quotes.

A row is fed as the partial columns that it states; what it prints must come out to its digits.
Volatility isn't printed, so of the score only what the rows can prove without it is tested.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate.datasets.flow import Flow
from aggregate.intervals import INTERVALS

HOUR = INTERVALS["1h"]
JANUARY_2024, SEPTEMBER_2025 = 1_704_067_200, 1_756_684_800  # UTC

BUY, SELL = 4687.976074, 3771.500977
"""binance-futures BTC, 2024-01-01 00:00, 1h, true: taker volumes in BTC."""
SELL_PERCENTAGES = (31.028582, 2262.439209, 40173.054688)
"""That row's sell small, medium and large order percentage."""

DELTAS = (-22.5368e6, 3.2076e6, -0.9925e6, 44.5875e6, -50.1726e6)
"""binance-futures BTC, 2025-09, hours 0 to 4, 1h, true: volume_delta_notional, ..."""
SCORES = (None, -0.5000, -0.1714, -0.9302, 0.6435)
"""... and flow_toxicity_score."""


def finish(start, **given_):
    """Finished columns of hours from `start` on, of one series, with the given partial columns."""
    n = len(next(iter(given_.values())))
    flow = Flow()
    partial = {name: np.zeros(n) for name in flow.partial}
    partial |= {name: np.zeros(n, dtype=np.int64) for name in flow.partial if "count" in name}
    partial |= {name: np.array(values, dtype=float) for name, values in given_.items()}
    code, starts = np.zeros(n, dtype=np.int32), start + HOUR.seconds * np.arange(n)
    return flow.finish(code, starts, partial, HOUR, flow.memory())


def test_entropy_and_ratio_of_the_published_hour():
    row = finish(JANUARY_2024, buy_qty=[BUY], sell_qty=[SELL])
    assert f"{row['flow_entropy'][0]:.6f}" == "0.687267"
    assert f"{row['taker_buy_sell_ratio'][0]:.6f}" == "1.243000"
    assert row["taker_buy_sell_percentage"][0] == pytest.approx(BUY / (BUY + SELL), rel=1e-15)


def test_sell_percentages_are_notional_by_quantity_and_sum_to_the_vwap():
    notional = [percentage * SELL for percentage in SELL_PERCENTAGES]
    small, medium, large = ([value] for value in notional)
    row = finish(
        JANUARY_2024,
        sell_qty=[SELL],
        sell_small_notional=small,
        sell_medium_notional=medium,
        sell_large_notional=large,
    )
    names = [f"taker_sell_{size}_order_percentage" for size in ("small", "medium", "large")]
    printed = [f"{row[name][0]:.6f}" for name in names]
    assert printed == [f"{percentage:.6f}" for percentage in SELL_PERCENTAGES]
    vwap = sum(notional) / SELL
    assert sum(row[name][0] for name in names) == pytest.approx(vwap, rel=1e-12)
    assert f"{vwap:.6f}" == "42466.522479"
    assert 42_000 < vwap < 43_000  # where BTC traded in that hour


def z_scores(values):
    """z of the last of values[:1], values[:2], …; None for the first."""
    out = [None]
    for n in range(2, len(values) + 1):
        own = values[:n]
        mean = math.fsum(own) / n
        std = math.sqrt(math.fsum((v - mean) ** 2 for v in own) / (n - 1))
        out.append((own[-1] - mean) / std)
    return out


def test_what_the_published_scores_prove_without_volatility():
    z = z_scores(DELTAS)
    assert SCORES[0] is None
    assert abs(SCORES[1]) == 0.5  # two values are ±1/√2 from their mean, whatever they are
    assert abs(z[1]) == pytest.approx(math.sqrt(0.5), rel=1e-12)
    for n, (score, own) in enumerate(zip(SCORES, z, strict=True), start=1):
        if n > 1:
            bound = (n - 1) / math.sqrt(n)  # the largest z that one of n values can have
            printed = 0.00005  # the scores are rounded to four digits
            assert (abs(score) - printed) / abs(own) <= bound, n


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-6, 1.0), min_size=5, max_size=5, unique=True))
def test_any_volatility_gives_scores_of_that_form(volatility):
    """null first, ±0.5 second, |score| ≤ |z(delta)|·(n−1)/√n, with the published deltas."""
    row = finish(
        SEPTEMBER_2025,
        buy_large_notional=[max(d, 0.0) for d in DELTAS],
        sell_large_notional=[max(-d, 0.0) for d in DELTAS],
        buy_qty=np.ones(5),
        sell_qty=np.ones(5),
        rv2=[v * v for v in volatility],
    )
    assert row["volume_delta_notional"].tolist() == list(DELTAS)
    score = row["flow_toxicity_score"]
    assert math.isnan(score[0])
    apart = abs(volatility[1] - volatility[0]) > 1e-6 * volatility[0]
    if apart:
        assert abs(score[1]) == pytest.approx(0.5, rel=1e-6)
        assert (score[1] > 0) == (volatility[1] > volatility[0])  # the second delta is the larger
    for n, (value, own) in enumerate(zip(score, z_scores(DELTAS), strict=True), start=1):
        if n > 1 and not math.isnan(value):
            assert abs(value) <= abs(own) * (n - 1) / math.sqrt(n) * (1 + 1e-6)


def test_one_volatility_for_all_hours_has_no_score():
    deltas, rv2 = [1.0, 2.0, 3.0], [0.25, 0.25, 0.25]
    row = finish(SEPTEMBER_2025, buy_large_notional=deltas, buy_qty=deltas, rv2=rv2)
    assert np.isnan(row["flow_toxicity_score"]).all()
