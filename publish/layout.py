"""Where bars live in the store: keys of month files and of the open parts of unfinished days.

    metrics/{dataset}/exchange=…/symbol=…/interval=…/timestamp=…/year=YYYY/month=MM/data.parquet
    metrics_open/…the same…/month=MM/day=DD/data.parquet
    metrics_open/…the same…/month=MM/day=DD/hour=HH/data.parquet          of 1s bars
    metrics_fixed/{dataset}/…the same…/month=MM/{version}.parquet

    metrics_manifest/{dataset}/…the same…/month=MM.json                    what a replay made it of

A part is written anew whenever bars are added to it, so that of the 1s series holds an hour.
A fixed file is a month file as it was once, for readers that are given open parts beside it.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Self
from urllib.parse import quote, unquote

OPEN = "metrics_open"
CLOSED = "metrics"
FIXED = "metrics_fixed"
MANIFESTS = "metrics_manifest"
HOURLY = frozenset({"1s"})
"""Intervals whose parts hold an hour; those of the others hold a day."""
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


def instrument_path(exchange: str, symbol: str) -> str:
    """The part of a key that says which instrument."""
    # Hive readers decode %XX; `:` is safe in file names and in S3 keys.
    return f"exchange={exchange}/symbol={quote(symbol, safe=':')}"


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """The rows of one path in the store: bars of one instrument, interval and clock."""

    dataset: str
    exchange: str
    symbol: str
    interval: str
    clock: str

    @property
    def path(self) -> str:
        """What its keys have in common, below `metrics` and `metrics_open`."""
        where = instrument_path(self.exchange, self.symbol)
        return f"{self.dataset}/{where}/interval={self.interval}/timestamp={self.clock}"


@dataclass(frozen=True, slots=True)
class Part:
    """What an open part holds: a UTC day, or an hour of it."""

    day: date
    hour: int | None = None

    @classmethod
    def of(cls, interval: str, time_us: int) -> Self:
        """The part that the bar starting at `time_us` (since the epoch) belongs in."""
        at = datetime.fromtimestamp(time_us // 1_000_000, UTC)
        return cls(at.date(), at.hour if interval in HOURLY else None)


def part_us(interval: str) -> int:
    """Microseconds that a part spans."""
    return HOUR_US if interval in HOURLY else DAY_US


def month_key(series: Series, year: int, month: int) -> str:
    return f"{CLOSED}/{series.path}/year={year:04}/month={month:02}/data.parquet"


def manifest_key(month: str) -> str:
    """Of a month file's key: apart, as some readers of the hive tree take every file for data."""
    of = month.removeprefix(f"{CLOSED}/").removesuffix("/data.parquet")
    return f"{MANIFESTS}/{of}.json"


def month_prefix(series: Series, year: int, month: int) -> str:
    """Below which a month's open parts are."""
    return f"{OPEN}/{series.path}/year={year:04}/month={month:02}"


def fixed_prefix(series: Series, year: int, month: int) -> str:
    """Below which a month's fixed files are."""
    return f"{FIXED}/{series.path}/year={year:04}/month={month:02}"


def fixed_key(series: Series, year: int, month: int, version: str) -> str:
    return f"{fixed_prefix(series, year, month)}/{version}.parquet"


def day_prefix(series: Series, day: date) -> str:
    return f"{month_prefix(series, day.year, day.month)}/day={day.day:02}"


def part_key(series: Series, day: date, hour: int | None = None) -> str:
    within = "" if hour is None else f"/hour={hour:02}"
    return f"{day_prefix(series, day)}{within}/data.parquet"


def parse_part_key(key: str) -> tuple[Series, Part]:
    """The series of an open part and what it holds. Raises ValueError for another key."""
    try:
        root, dataset, *pairs, name = key.split("/")
        values = dict(pair.split("=", 1) for pair in pairs)
        day = date(int(values["year"]), int(values["month"]), int(values["day"]))
        symbol = unquote(values["symbol"])
        series = Series(
            dataset, values["exchange"], symbol, values["interval"], values["timestamp"]
        )
        part = Part(day, int(values["hour"]) if "hour" in values else None)
    except (ValueError, KeyError):
        raise ValueError(f"{key} is not the key of an open part") from None
    if (root, name) != (OPEN, "data.parquet"):
        raise ValueError(f"{key} is not the key of an open part")
    return series, part


def parse_month_key(key: str) -> tuple[int, int]:
    """Year and month of a month file's key. Raises ValueError for another key."""
    try:
        *_, year, month, name = key.split("/")
        if not (key.startswith(f"{CLOSED}/") and name == "data.parquet"):
            raise ValueError
        return int(year.removeprefix("year=")), int(month.removeprefix("month="))
    except ValueError:
        raise ValueError(f"{key} is not the key of a month file") from None
