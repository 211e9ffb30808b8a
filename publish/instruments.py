"""`perpflow instruments`: what the venues list, as a table or as JSON lines."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from ingest.errors import UserError
from ingest.instrument_cache import cache_path, load
from ingest.instruments import Listed
from ingest.selection import ALL, dexes_of, matches
from ingest.universe import InstrumentList, fetch_list, rest_base
from ingest.venues import VENUES
from publish.settings import Settings

_HEAD = ("venue", "native id", "Atlas id", "contract size", "inverse", "status")


class NoInstrumentsError(UserError):
    """Patterns that match nothing, venues that can't be reached; all of them are named."""


@dataclass(frozen=True, slots=True)
class InstrumentsOptions:
    """`venue` None: the configured ones, or all if none is. No `patterns`: everything listed."""

    venue: str | None = None
    patterns: Sequence[str] = ()
    cached: bool = False
    as_json: bool = False


async def show_instruments(settings: Settings, options: InstrumentsOptions) -> None:
    """Print the perpetuals that match, whatever their status.

    Raises `NoInstrumentsError` after printing what there is: a venue's list can't be had, a
    pattern matches nothing on any of the venues, an entry can't be read.
    """
    configured = list(settings.venues.enabled())
    names = [options.venue] if options.venue else configured or list(VENUES)
    answers = await asyncio.gather(
        *(_listed(settings, options, name) for name in names), return_exceptions=True
    )
    found: list[Listed] = []
    problems: list[str] = []
    matched: set[str] = set()
    patterns = options.patterns or (ALL,)
    for answer in answers:
        if isinstance(answer, UserError):
            problems.append(str(answer))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            problems += answer.problems
            wanted = {p: matches(answer.listed, p) for p in patterns}
            matched |= {p for p, items in wanted.items() if items}
            # Each once, in the order of the venue's list.
            keep = {i.instrument.native for items in wanted.values() for i in items}
            found += [i for i in answer.listed if i.instrument.native in keep]
    print(_json_lines(found) if options.as_json else _table(found), end="")
    if len(answers) > sum(isinstance(a, BaseException) for a in answers):
        missed = [repr(p) for p in patterns if p not in matched]
        problems += [f"nothing on {', '.join(names)} matches {', '.join(missed)}"] if missed else []
    if problems:
        raise NoInstrumentsError("\nperpflow: ".join(problems))


async def _listed(settings: Settings, options: InstrumentsOptions, name: str) -> InstrumentList:
    venue = settings.venues.enabled().get(name)
    dexes = dexes_of(name, options.patterns or (ALL,), venue.chosen_dexes if venue else ())
    rest_url = venue.rest_url if venue else None
    if not options.cached:
        return await fetch_list(name, rest_url, dexes)
    path = cache_path(settings.log.path, name)
    kept = load(path, name, rest_base(name, rest_url), tuple(dexes))
    if kept is None:
        raise NoInstrumentsError(
            f"{name}: {path} holds no copy of that list: a collector that runs keeps one there"
        )
    return kept


def _json_lines(found: Sequence[Listed]) -> str:
    lines = []
    for item in found:
        i = item.instrument
        line = {
            "venue": i.exchange,
            "native": i.native,
            "symbol": i.symbol,
            "contract_size": i.contract_size,
            "inverse": i.inverse,
            "status": item.status,
        }
        lines.append(orjson.dumps(line).decode() + "\n")
    return "".join(lines)


def _table(found: Sequence[Listed]) -> str:
    rows = [_HEAD, *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in rows
    )


def _row(item: Listed) -> tuple[str, ...]:
    i = item.instrument
    size = f"{i.contract_size:.15g}"
    return i.exchange, i.native, i.symbol, size, "yes" if i.inverse else "no", item.status
