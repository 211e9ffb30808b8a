"""Which days of which instruments can be audited: those of which nothing more is expected."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from urllib.parse import unquote

from aggregate.shard import Rules
from ingest.errors import UserError
from publish.audit.unit import KINDS, AuditUnit
from publish.layout import OPEN, instrument_path, parse_part_key
from publish.partitions import read_month
from publish.raw_chunks import QUOTES, TRADES
from publish.raw_chunks import ROOT as CHUNKS
from publish.raw_days import ROOT as RAW
from publish.raw_days import parse_day_key
from publish.replay.month import MonthUnit
from publish.replay.ticks_in import Area
from publish.store import Store


class NothingToAudit(UserError):
    """The raw archive has none of what is wanted, or not yet; the message says why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to audit; None and () is all."""

    year: int
    month: int
    day: int | None = None
    exchange: str | None = None
    symbols: Sequence[str] = ()
    repair: bool = False

    def has(self, day: date) -> bool:
        return (day.year, day.month) == (self.year, self.month) and self.day in (None, day.day)

    def __str__(self) -> str:
        day = "" if self.day is None else f"-{self.day:02}"
        return f"{self.year:04}-{self.month:02}{day}"


@dataclass(slots=True)
class Plan:
    """`waiting`: days that are wanted and left out, and why."""

    units: list[AuditUnit] = field(default_factory=list)
    waiting: dict[str, set[date]] = field(default_factory=dict)

    def wait(self, why: str, days: Iterable[date]) -> None:
        if days := set(days):
            self.waiting.setdefault(why, set()).update(days)


def plan(area: Area, rules: Rules, wanted: Wanted, today: date) -> Plan:
    """A unit an instrument, of the days before `today` (UTC) that are settled.

    Raises `NothingToAudit`, and `StoreError`.
    """
    store = area.open()
    found = Plan()
    open_days = {day for day in _open_raw_days(store) if wanted.has(day)}
    found.wait("has no raw files yet", {day for day in open_days if day < today})
    if wanted.day is not None:
        asked = date(wanted.year, wanted.month, wanted.day)
        found.wait("is not over", {asked} if asked >= today else ())
    for exchange, symbol in _instruments(store, wanted):
        days = _raw_days(store, exchange, symbol, wanted)
        over = {day for day in days if wanted.has(day) and day < today}
        unfolded = _unfolded(store, exchange, symbol) & (over - open_days)
        found.wait("is in no month file yet", unfolded)
        settled = sorted(over - open_days - unfolded)
        if settled:
            live = MonthUnit(area, exchange, symbol, wanted.year, wanted.month, rules)
            found.units.append(AuditUnit(live, tuple(settled), wanted.repair))
    if not found.units:
        raise NothingToAudit(_nothing(store, wanted, found))
    return found


def _nothing(store: Store, wanted: Wanted, found: Plan) -> str:
    if found.waiting:
        why = [
            f"{', '.join(map(str, sorted(days)))} {why}"
            for why, days in sorted(found.waiting.items())
        ]
        return f"nothing of {wanted} can be audited yet: {'; '.join(why)}"
    of = ", ".join([*filter(None, [wanted.exchange]), *wanted.symbols])
    return (
        f"{store.url} has no raw ticks of {wanted}{f' of {of}' if of else ''}: the audit "
        f"recomputes bars from the raw archive, of which publish.raw = true makes a file for each "
        f"day that is over"
    )


def _instruments(store: Store, wanted: Wanted) -> list[tuple[str, str]]:
    found = set()
    for kind in (TRADES, QUOTES):
        for exchange in _values(store, f"{RAW}/{kind}", "exchange"):
            if wanted.exchange in (None, exchange):
                names = _values(store, f"{RAW}/{kind}/exchange={exchange}", "symbol")
                found |= {(exchange, unquote(name)) for name in names}
    return sorted(of for of in found if not wanted.symbols or of[1] in wanted.symbols)


def _values(store: Store, prefix: str, name: str) -> list[str]:
    return [child.removeprefix(f"{name}=") for child in store.children(prefix) if "=" in child]


def _raw_days(store: Store, exchange: str, symbol: str, wanted: Wanted) -> set[date]:
    where = instrument_path(exchange, symbol)
    month = f"year={wanted.year:04}/month={wanted.month:02}"
    return {
        parse_day_key(key)[1]
        for kind in (TRADES, QUOTES)
        for key in store.list(f"{RAW}/{kind}/{where}/{month}")
    }


def _open_raw_days(store: Store) -> set[date]:
    """Days of arrival of which some ticks are not in a day's file yet."""
    return {
        date.fromisoformat(day)
        for kind in (TRADES, QUOTES)
        for partition in store.children(f"{CHUNKS}/{kind}")
        for day in _values(store, f"{CHUNKS}/{kind}/{partition}", "day")
    }


def _unfolded(store: Store, exchange: str, symbol: str) -> set[date]:
    """Days of which some open part is in no month file: live may still add to them."""
    found = set()
    listed = {}
    for dataset in KINDS:
        for key in store.list(f"{OPEN}/{dataset}/{instrument_path(exchange, symbol)}"):
            series, part = parse_part_key(key)
            month = (series, part.day.year, part.day.month)
            if month not in listed:
                listed[month] = read_month(store, *month).days
            if part.day not in listed[month]:
                found.add(part.day)
    return found
