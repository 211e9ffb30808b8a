"""The shipped rules, with time running faster, so that a test need not wait for minutes.

`for` and the ranges of selectors shrink by a factor, down to what scraping allows; the thresholds
that are seconds are named here one by one, and each must be found.
"""

import re
from pathlib import Path

import yaml

from tests.deploy.rules import RULES

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RANGE = re.compile(r"\[(\d+)([smhd])\]")
SCRAPE_S = 2.0
SHORTEST_RANGE_S = 8.0
SHORTEST_FOR_S = 4.0
THRESHOLDS = {
    "VenueStale": (("> 30)", "> 6)"),),
    "ChannelSilent": (("> 120", "> 10"), ("> 30\n", "> 6\n")),
    # What a busy machine may well do for some seconds:
    "CollectorBehind": (("> 60", "> 20"),),
    "ArrivalLate": (("> 2.5", "> 25"),),
    "LagGrowing": (("> 60", "> 30"), ("> 120", "> 40")),
    "BarsStopped": (("> 60", "> 20"),),
    "BarCloseDelay": (("> 2.5", "> 25"), ("> 10", "> 30")),
    "PublisherStalled": (("> 300", "> 60"),),
    # Hyperliquid's backlog at a start is late: much of the little that a test collects.
    "CompletenessBurn": (
        ("rate1h > 14.4 * 0.001", "rate1h > 0.9"),
        ("rate6h > 6 * 0.001", "rate6h > 0.9"),
    ),
    "CompletenessBurnSlow": (
        ("rate1d > 3 * 0.001", "rate1d > 0.9"),
        ("rate3d > 1 * 0.001", "rate3d > 0.9"),
    ),
}
"""What is waited for is shorter; what would be a false alarm there is longer than it would be."""


def seconds(text: str) -> float:
    return float(text[:-1]) * _UNITS[text[-1]]


def scaled(folder: Path, factor: float) -> list[Path]:
    """Copies of the rules that are `factor` times as fast; 1 leaves them as they are."""
    paths = []
    for path in RULES:
        document = yaml.safe_load(path.read_text())
        for group in document["groups"]:
            group["interval"] = f"{SCRAPE_S:.0f}s" if factor != 1 else "15s"
            for rule in group["rules"]:
                _scale(rule, factor)
        paths.append(folder / path.name)
        paths[-1].write_text(yaml.safe_dump(document, sort_keys=False))
    return paths


def _scale(rule: dict[str, str], factor: float) -> None:
    if factor == 1:
        return
    for text, faster in THRESHOLDS.get(rule.get("alert", ""), ()):
        assert rule["expr"].count(text) == 1, f"{rule['alert']}: {text!r} is not there once"
        rule["expr"] = rule["expr"].replace(text, faster)
    rule["expr"] = _RANGE.sub(lambda found: _range(found, factor), rule["expr"])
    if "for" in rule:
        rule["for"] = f"{max(seconds(rule['for']) / factor, SHORTEST_FOR_S):.0f}s"


def _range(found: re.Match[str], factor: float) -> str:
    length = float(found[1]) * _UNITS[found[2]] / factor
    return f"[{max(length, SHORTEST_RANGE_S):.0f}s]"
