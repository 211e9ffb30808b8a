"""What is served: every dataset and its fields, in words. The API's catalog and its OpenAPI.

What a metric column is stands beside its formula, in `aggregate/datasets/`; the columns of the raw
ticks stand here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aggregate.datasets import Dataset, datasets
from aggregate.intervals import CLOCKS, LADDER
from ingest.venues import VENUES

EXCHANGES = tuple(VENUES)
INTERVAL_NAMES = tuple(interval.name for interval in LADDER)
TIME = "Start of the bar, UTC without a time zone; the bar is [time, time + interval)."
RAW_SCHEMA_VERSION = 1
RAW_FAMILY = "raw"

CLOCK_MEANINGS = {
    "exchange": "the time that the venue reports for the event",
    "true": "the time when the message reached the collector's socket",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a file: its name, its type in the file and what it is."""

    name: str
    type: str
    about: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A dataset as users see it; its `family` is the first label of its files' host."""

    name: str
    category: str
    family: str
    about: str
    fields: tuple[Field, ...]


def _entry(dataset: Dataset) -> Entry:
    category, family = {
        "trades": ("Trades", "trade-metrics"),
        "quotes": ("L1 Order Book", "l1-metrics"),
    }[dataset.kind]
    if dataset.name == "ohlcv":
        category, family = "Market Data", "ohlcv"
    fields = [Field("time", "timestamp[us]", TIME)]
    fields += [Field(name, c.type, c.about) for name, c in dataset.columns.items()]
    return Entry(dataset.name, category, family, dataset.about, tuple(fields))


def _raw(name: str, about: str, *fields: tuple[str, str, str]) -> Entry:
    return Entry(name, "Raw", RAW_FAMILY, about, tuple(Field(*field) for field in fields))


_TWO_CLOCKS = (
    ("exchange_timestamp", "timestamp[ns, UTC]", "When the venue says that it happened."),
    ("local_timestamp", "timestamp[ns, UTC]", "When its message reached the collector's socket."),
)

METRICS: Mapping[str, Entry] = {dataset.name: _entry(dataset) for dataset in datasets()}
"""The datasets that are built, in the registry's order."""

RAW: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        _raw(
            "trades",
            "Every print of the venues' trade feeds, in order of arrival.",
            *_TWO_CLOCKS,
            ("id", "string", "The venue's id of the trade."),
            ("side", "string", "The taker's side: buy or sell."),
            ("price", "float64", "Price, quote units."),
            ("amount", "float64", "Quantity, base units."),
            ("notional", "float64", "Price times quantity, quote units."),
            ("count", "int32", "How many fills the print stands for."),
            (
                "origin",
                "string",
                "How it came: live, backlog (replayed on subscribing), healed (REST).",
            ),
            ("collector", "string", "Which collector received it."),
            ("row", "int64", "Its place in order of arrival."),
            ("excluded_exchange", "string", "Why it is in no bar of the exchange clock, or null."),
            ("excluded_true", "string", "Why it is in no bar of the true clock, or null."),
        ),
        _raw(
            "quotes",
            "Every update of the best bid and ask, in order of arrival.",
            *_TWO_CLOCKS,
            ("bid_price", "float64", "Best bid price, quote units; null while there is no bid."),
            ("bid_amount", "float64", "Quantity at the best bid, base units."),
            ("ask_price", "float64", "Best ask price, quote units; null while there is no ask."),
            ("ask_amount", "float64", "Quantity at the best ask, base units."),
            ("sequence", "int64", "The venue's sequence number; null where it has none."),
            ("collector", "string", "Which collector received it."),
            ("row", "int64", "Its place in order of arrival."),
        ),
        _raw(
            "gaps",
            "Trades that did not arrive when they should have, and how many came after all.",
            ("exchange_timestamp", "timestamp[ns, UTC]", "The venue's time of the last good tick."),
            ("local_timestamp", "timestamp[ns, UTC]", "When the gap was noticed."),
            (
                "kind",
                "string",
                "What is known of it: ids (which), or fills (only between which times).",
            ),
            ("first_missing", "int64", "The first missing id of the venue's; null if unknown."),
            ("last_missing", "int64", "The last missing id of the venue's; null if unknown."),
            ("missing", "int64", "How many ticks are missing; null if unknown."),
            ("healed", "int64", "How many of them came by REST afterwards."),
            ("reason", "string", "What it came from, if that is known."),
        ),
    )
}
"""The raw ticks that can be asked for."""


def catalog() -> dict[str, Any]:
    """The answer of `/metadata/catalog`."""
    return {
        "exchanges": list(EXCHANGES),
        "timestamps": [{"name": name, "description": CLOCK_MEANINGS[name]} for name in CLOCKS],
        "intervals": list(INTERVAL_NAMES),
        "datasets": [_described(entry) for entry in METRICS.values()],
        "raw_datasets": [_described(entry) for entry in RAW.values()],
    }


def _described(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "category": entry.category,
        "description": entry.about,
        "fields": [
            {"name": field.name, "type": field.type, "description": field.about}
            for field in entry.fields
        ],
    }
