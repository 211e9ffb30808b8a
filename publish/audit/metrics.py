"""Prometheus metrics of the last audit; by exchange, so that no label names a symbol."""

import time
from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from publish.audit.causes import CAUSES
from publish.audit.latency import Latencies
from publish.audit.report import KINDS, OFFSET_QUANTILE, QUANTILES, AuditReport
from publish.audit.unit import UnitReport

_NS = 1e9

LAST = Gauge(
    "perpflow_audit_last_timestamp_seconds",
    "When the last audit ended; at first, when the daemon began",
)
SECONDS = Gauge("perpflow_audit_seconds", "How long the last audit took")
FAILURES = Counter("perpflow_audit_failures_total", "Audits that an error ended")
WAITING = Gauge("perpflow_audit_waiting_days", "Days that the last audit had to leave out")
BARS = Gauge("perpflow_audit_bars", "Bars that the last audit compared", ["exchange"])
DIFFERENCES = Gauge(
    "perpflow_audit_differences",
    "Bars of the last audit that were not published as the ticks give them",
    ["exchange", "cause"],
)
REPAIRED = Counter(
    "perpflow_audit_repaired_total", "Days of a series that the audit has rewritten", ["exchange"]
)
COMPLETENESS = Gauge(
    "perpflow_audit_completeness_ratio",
    "Trades received or healed, of those that the venue's ids say there were (not Hyperliquid's)",
    ["exchange"],
)
LOWEST = Gauge(
    "perpflow_audit_completeness_lowest_ratio",
    "The completeness of the instrument that has the lowest",
    ["exchange"],
)
MISSING = Gauge(
    "perpflow_audit_missing_trades", "Trades that are known to be missing", ["exchange"]
)
GAPS = Gauge("perpflow_audit_gaps", "Gaps recorded in the audited days", ["exchange"])
TICKS = Gauge("perpflow_audit_ticks", "Ticks of the audited days", ["exchange", "kind"])
LATE = Gauge(
    "perpflow_audit_late_ticks",
    "Ticks of the audited days that were too late for an exchange bar",
    ["exchange", "kind"],
)
DUPLICATES = Gauge(
    "perpflow_audit_duplicate_ratio",
    "Copies among the ticks of the audited month",
    ["exchange", "kind"],
)
LATENCY = Gauge(
    "perpflow_audit_latency_seconds",
    "From the venue's stamp to arrival, of live ticks",
    ["exchange", "kind", "quantile"],
)
OFFSET = Gauge(
    "perpflow_audit_clock_offset_seconds",
    "The latency of the fastest ticks; below 0 the clock here is behind the venue's",
    ["exchange", "kind"],
)


def export(report: AuditReport) -> None:
    """Make them those of this audit."""
    for exchange in sorted({unit.unit.live.exchange for unit in report.units}):
        _of_exchange(exchange, [u for u in report.units if u.unit.live.exchange == exchange])
    WAITING.set(len(set().union(*report.waiting.values())))
    SECONDS.set(report.seconds)
    LAST.set(time.time())


def _of_exchange(exchange: str, units: list[UnitReport]) -> None:
    BARS.labels(exchange).set(sum(unit.bars for unit in units))
    for cause in CAUSES:
        n = sum(unit.causes()[cause] for unit in units)
        DIFFERENCES.labels(exchange, cause.value).set(n)
    REPAIRED.labels(exchange).inc(sum(len(unit.repaired) for unit in units))
    GAPS.labels(exchange).set(sum(len(unit.gaps) for unit in units))
    known = [unit.completeness for unit in units if unit.completeness.expected]
    if known:
        there = sum(of.received + of.healed for of in known)
        COMPLETENESS.labels(exchange).set(there / sum(of.expected or 0 for of in known))
        LOWEST.labels(exchange).set(min(of.share or 0.0 for of in known))
        MISSING.labels(exchange).set(sum(of.missing for of in known))
    for kind in KINDS:
        TICKS.labels(exchange, kind).set(sum(unit.ticks.rows[kind] for unit in units))
        late = [n for unit in units for (of, _), n in unit.ticks.late.items() if of == kind]
        LATE.labels(exchange, kind).set(sum(late))
        read = sum(unit.read[kind] for unit in units)
        if read:
            copies = sum(unit.duplicates[kind] for unit in units)
            DUPLICATES.labels(exchange, kind).set(copies / read)
        _latency(exchange, kind, (unit.ticks.latencies.get(kind) for unit in units))


def _latency(exchange: str, kind: str, of_units: Iterable[Latencies | None]) -> None:
    every = Latencies()
    for one in of_units:
        if one is not None:
            every.merge(one)
    for q in QUANTILES:
        found = every.quantile(q)
        if found is not None:
            LATENCY.labels(exchange, kind, f"{q:g}").set(found / _NS)
    offset = every.quantile(OFFSET_QUANTILE)
    if offset is not None:
        OFFSET.labels(exchange, kind).set(offset / _NS)
