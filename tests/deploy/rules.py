"""The rules of deploy/prometheus/rules, and promtool's unit tests of them.

A case is a healthy deployment's series with some of them changed: series are functions of the time,
in seconds, and promtool's clock starts at 0.
"""

import json
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.debian import program
from tests.deploy.dockerfile import ROOT

RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
EXCHANGES = ("binance-futures", "okx-perps")
COLLECTORS = ("ingest-1:9108", "ingest-2:9108")
Value = Callable[[float], float | None]
"""None: there is no such series then."""


@cache
def alerts() -> dict[str, dict[str, Any]]:
    """Every alert by its name."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule["alert"]: rule for g in groups for rule in g["rules"] if "alert" in rule}


@cache
def recorded() -> list[tuple[str, str]]:
    """(name, expression) of every series that the rules record."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [
        (rule["record"], rule["expr"]) for g in groups for rule in g["rules"] if "record" in rule
    ]


def flat(value: float) -> Value:
    return lambda t: value


def rising(per_second: float, after: float = 0.0, start: float = 0.0) -> Value:
    """A counter."""
    return lambda t: start + max(0.0, t - after) * per_second


def now(behind: float = 0.0) -> Value:
    """A timestamp that keeps up."""
    return lambda t: t - behind


def stopped(at: float) -> Value:
    """A timestamp that does not any more."""
    return lambda t: min(t, at)


def named(metric: str, **labels: str) -> str:
    """Alike for the same labels, however they are given."""
    return metric + "{" + ",".join(f'{name}="{labels[name]}"' for name in sorted(labels)) + "}"


def healthy() -> dict[str, Value]:
    """Two collectors of two venues, two aggregators, a publisher, an API."""
    series: dict[str, Value] = {}
    for instance in COLLECTORS:
        at = {"job": "ingest", "instance": instance}
        series[named("up", **at)] = flat(1)
        for exchange in EXCHANGES:
            series |= _venue({**at, "exchange": exchange})
    for number in (1, 2):
        at = {"job": "aggregate", "instance": f"10.0.0.{number}:9108"}
        series[named("up", **at)] = series[named("perpflow_ready", **at)] = flat(1)
        partition = {**at, "partition": str(number)}
        for exchange in EXCHANGES:
            series[named("perpflow_watermark_timestamp_seconds", shard=exchange, **partition)] = (
                now(1)
            )
        series[named("perpflow_aggregate_lag_seconds", topic="ticks.trades", **partition)] = flat(0)
        series[named("perpflow_ticks_trimmed_total", topic="ticks.trades", **at)] = flat(0)
        series |= discarded({}, **at)
        for clock in ("true", "exchange"):
            series |= histogram(
                "perpflow_bar_close_delay_seconds", 0.3, clock=clock, interval="1s", **at
            )
    for job in ("publish", "serve"):
        at = {"job": job, "instance": f"{job}:9108"}
        series[named("process_start_time_seconds", **at)] = flat(-3600)
        series[named("up", **at)] = series[named("perpflow_ready", **at)] = flat(1)
        series[named("perpflow_store_operation_errors_total", operation="put", **at)] = flat(0)
    at = {"job": "audit", "instance": "audit:9108"}
    series[named("up", **at)] = flat(1)
    series[named("perpflow_audit_last_timestamp_seconds", **at)] = now(600)
    return series | _published({"job": "publish", "instance": "publish:9108"})


def _venue(at: Mapping[str, str]) -> dict[str, Value]:
    series: dict[str, Value] = {
        named("perpflow_connections", state="subscribed", **at): flat(2),
        named("perpflow_clock_offset_seconds", **at): flat(0.01),
        named("perpflow_clock_offset_uncertainty_seconds", **at): flat(0.005),
        named("perpflow_clock_steps_total", reason="forward", **at): flat(0),
        named("perpflow_frames_total", **at): rising(100),
        named("perpflow_frames_malformed_total", reason="json", **at): flat(0),
        named("perpflow_gaps_total", reason="jump", **at): flat(0),
        named("perpflow_spool_limit_bytes", **at): flat(1 << 30),
        named("perpflow_spool_bytes", **at): flat(0),
        named("perpflow_instrument_list_fetched_timestamp_seconds", **at): now(30),
    }
    counters = "trades_missing append_failures subscriptions_given_up spool_failures"
    series |= {named(f"perpflow_{name}_total", **at): flat(0) for name in counters.split()}
    for kind in ("trades", "quotes"):
        series[named("perpflow_last_arrival_timestamp_seconds", kind=kind, **at)] = now(0.1)
        series[named("perpflow_ticks_total", kind=kind, **at)] = rising(50)
        series |= histogram("perpflow_event_age_seconds", 0.1, kind=kind, **at)
    return series


def _published(at: Mapping[str, str]) -> dict[str, Value]:
    counters = "bars_trimmed raw_trimmed raw_malformed"
    return {
        **{named(f"perpflow_{name}_total", **at): flat(0) for name in counters.split()},
        named("perpflow_last_flush_timestamp_seconds", **at): now(20),
        named("perpflow_raw_last_flush_timestamp_seconds", **at): now(200),
        named("perpflow_publish_lag_seconds", topic="bars", **at): flat(0),
    }


def histogram(metric: str, seconds: float, **labels: str) -> dict[str, Value]:
    """Ten observations a second, all of this size."""
    bounds = (2.5, 5.0, 10.0)
    return {
        named(f"{metric}_bucket", le=str(bound), **labels): rising(10 if seconds <= bound else 0)
        for bound in bounds
    } | {named(f"{metric}_bucket", le="+Inf", **labels): rising(10)}


def discarded(per_second: Mapping[str, float], **at: str) -> dict[str, Value]:
    return {
        named(
            "perpflow_aggregate_discarded_total",
            clock="exchange",
            kind="trades",
            reason=reason,
            **at,
        ): rising(per_second.get(reason, 0.0))
        for reason in ("late", "duplicate")
    }


@dataclass(frozen=True)
class Case:
    """What fires `at` a time, and nothing else: `alerts` as (name, its labels)."""

    about: str
    at: float
    changed: Mapping[str, Value | None] = field(default_factory=dict)
    alerts: Sequence[tuple[str, Mapping[str, str]]] = ()
    step: float = 30.0
    shown: Sequence[str] = ()
    """Alerts that promtool is to complain of, and so to write out with their annotations."""

    def document(self) -> dict[str, Any]:
        series = {name: value for name, value in (healthy() | self.changed).items() if value}
        times = [i * self.step for i in range(int(self.at / self.step) + 1)]
        return {
            "name": self.about,
            "interval": f"{self.step:.0f}s",
            "input_series": [
                {"series": name, "values": " ".join(_sample(value(t)) for t in times)}
                for name, value in series.items()
            ],
            "alert_rule_test": [
                {"eval_time": f"{self.at:.0f}s", "alertname": name, "exp_alerts": []}
                for name in self.shown
            ],
            "promql_expr_test": [
                {
                    "expr": "count by (alertname, severity, exchange, kind, job, instance, loss) "
                    '(ALERTS{alertstate="firing", alertname!="Watchdog"})',
                    "eval_time": f"{self.at:.0f}s",
                    "exp_samples": [
                        {"labels": _labels(name, labels), "value": 1}
                        for name, labels in self.alerts
                    ],
                }
            ],
        }


def _sample(value: float | None) -> str:
    return "_" if value is None else repr(float(value))


def _labels(name: str, labels: Mapping[str, str]) -> str:
    severity = alerts()[name]["labels"]["severity"]
    return named("", alertname=name, severity=severity, **labels)


def run_promtool(cases: Iterable[Case], folder: Path) -> subprocess.CompletedProcess[str]:
    """`promtool test rules` of the cases, each evaluated at its own steps."""
    steps = defaultdict(list)
    for case in cases:
        steps[case.step].append(case.document())
    for step, tests in steps.items():
        document = {
            "rule_files": [str(path) for path in RULES],
            "evaluation_interval": f"{step:.0f}s",
            "tests": tests,
        }
        (folder / f"{step:.0f}.yml").write_text(json.dumps(document))  # which is YAML, too
    files = [str(folder / f"{step:.0f}.yml") for step in steps]
    return subprocess.run(
        [program("promtool"), "test", "rules", *files], capture_output=True, text=True
    )
