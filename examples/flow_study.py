"""Six months of order flow, as a researcher looks at them: run it cell by cell, or whole.

    export APERIODIC_API_URL=http://127.0.0.1:8080/api/v1
    python examples/flow_study.py --key pf_… --symbol perpetual-BTC-USDT:USDT \
        --start 2026-03-01 --end 2026-08-31 --out study

Needs the public client and matplotlib: pip install 'aperiodic[polars]' matplotlib. It writes three
pictures and `study.parquet`, the hourly table that they were drawn from.
"""

# %% What to look at
import argparse
from datetime import date
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from aperiodic import get_metrics, get_ohlcv

DAY, WEEK, MONTH = 24, 7 * 24, 30 * 24  # hours
BUY, SELL, NEUTRAL = "#1a9850", "#d73027", "#4575b4"
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--key", required=True)
parser.add_argument("--exchange", default="binance-futures")
parser.add_argument("--symbol", default="perpetual-BTC-USDT:USDT")
parser.add_argument("--start", type=date.fromisoformat, required=True)
parser.add_argument("--end", type=date.fromisoformat, required=True)
parser.add_argument("--out", type=Path, default=Path("study"))
asked = parser.parse_args()
asked.out.mkdir(parents=True, exist_ok=True)

# %% Load an hour a row, and join by time
what = {
    "timestamp": "true",
    "interval": "1h",
    "exchange": asked.exchange,
    "symbol": asked.symbol,
    "start_date": asked.start,
    "end_date": asked.end,
    "show_progress": False,
}
flow = get_metrics(asked.key, metric="flow", **what)
ohlcv = get_ohlcv(asked.key, **what)
if flow.is_empty() or ohlcv.is_empty():
    raise SystemExit(f"no hours of {asked.symbol} from {asked.start} to {asked.end}")
hours = ohlcv.join(flow, on="time", how="inner").sort("time")
print(f"{len(hours):,} hours of {asked.symbol}, {hours['time'][0]} to {hours['time'][-1]}")


# %% Cumulative delta, rolling ratios, z-scores
def z_score(column: str, window: int) -> pl.Expr:
    """How unusual an hour is among the `window` hours before and with it."""
    x = pl.col(column)
    return (x - x.rolling_mean(window)) / x.rolling_std(window)


buys, sells = pl.col("taker_buy_volume"), pl.col("taker_sell_volume")
hours = hours.with_columns(
    cumulative_delta=pl.col("volume_delta").cum_sum(),
    buy_sell_day=buys.rolling_sum(DAY) / sells.rolling_sum(DAY),
    buy_sell_week=buys.rolling_sum(WEEK) / sells.rolling_sum(WEEK),
    delta_z=z_score("volume_delta_notional", MONTH),
    weekday=pl.col("time").dt.weekday() - 1,
    hour=pl.col("time").dt.hour(),
)
hours.write_parquet(asked.out / "study.parquet")
time = hours["time"].to_numpy()

# %% Price and cumulative delta
figure, price = plt.subplots(figsize=(12, 5), layout="constrained")
price.plot(time, hours["close"], color=NEUTRAL, linewidth=1, label="close")
price.set(ylabel="close (quote units)", title=f"{asked.symbol}: price and cumulative delta")
delta = price.twinx()
delta.plot(time, hours["cumulative_delta"], color=BUY, linewidth=1, label="cumulative delta")
delta.set_ylabel("cumulative volume delta (base units)")
figure.legend(loc="outside lower center", ncols=2)
figure.savefig(asked.out / "cumulative_delta.png", dpi=100)

# %% Rolling ratios, and the hours that stand out
figure, (ratio, score) = plt.subplots(
    2, 1, figsize=(12, 7), sharex=True, layout="constrained", height_ratios=(3, 2)
)
ratio.plot(time, hours["buy_sell_day"], color=NEUTRAL, linewidth=0.8, alpha=0.6, label="a day")
ratio.plot(time, hours["buy_sell_week"], color="black", linewidth=1.5, label="a week")
ratio.axhline(1, color="grey", linewidth=0.8, linestyle="--")
ratio.set(ylabel="taker buys / taker sells", title=f"{asked.symbol}: who takes")
ratio.legend(loc="upper right")
z = hours["delta_z"].to_numpy()
score.vlines(time, 0, z, colors=np.where(z > 0, BUY, SELL), linewidth=0.8)
score.set_ylabel("z of the hour's delta\n(30 days)")
figure.savefig(asked.out / "ratios.png", dpi=100)

# %% When in the week it happens
week = np.full((7, 24), np.nan)
means = hours.group_by("weekday", "hour").agg(pl.col("volume_delta_notional").mean())
for weekday, hour, mean in means.iter_rows():
    week[weekday, hour] = mean / 1e3
limit = np.nanmax(np.abs(week))
figure, heat = plt.subplots(figsize=(12, 4), layout="constrained")
image = heat.imshow(week, cmap="RdYlGn", vmin=-limit, vmax=limit, aspect="auto")
heat.set(xticks=range(24), yticks=range(7), xlabel="hour (UTC)")
heat.set_yticklabels(WEEKDAYS)
heat.set_title(f"{asked.symbol}: mean hourly delta")
figure.colorbar(image, label="thousand quote units")
figure.savefig(asked.out / "week.png", dpi=100)
print(f"three pictures and study.parquet in {asked.out}")
