"""Every PromQL expression that we ship, and what metrics and labels it names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from deploy.grafana.generate import BOARDS
from deploy.grafana.panels import Panel
from publish.metrics_table import described, modules
from tests.deploy.rules import alerts, recorded

_METRIC = re.compile(r"(?<![\w:])((?:perpflow|process|python)_[a-z_]+|perpflow:[\w:]+)(\{[^}]*\})?")
_PYTHON_CLIENTS = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_start_time_seconds",
}
_TARGETS = {"job", "instance"}
"""Labels that Prometheus adds to what it scrapes."""
ALL = re.compile(r"\$(exchange|instance)")


@dataclass(frozen=True)
class Query:
    """`where`: for people; `panel`: where it is a panel's."""

    where: str
    expression: str
    panel: Panel | None = None

    def runnable(self, interval: str) -> str:
        """As Grafana sends it, with all of the variables' values chosen."""
        return ALL.sub(".*", self.expression).replace("$__rate_interval", interval)


def shipped() -> Iterator[Query]:
    for board_name, board in BOARDS.items():
        for row in board.rows:
            for panel in row.panels:
                for legend, expression in panel.queries.items():
                    yield Query(f"{board_name}: {panel.title}: {legend}", expression, panel)
    for name, rule in alerts().items():
        yield Query(f"alert {name}", rule["expr"])
    for name, expression in recorded():
        yield Query(f"recorded {name}", expression)


@cache
def known() -> dict[str, set[str]]:
    """The labels of every series that the code, the client and the rules make, by its name."""
    found: dict[str, set[str]] = {name: set() for name in _PYTHON_CLIENTS}
    for module in modules():
        for metric in described(module):
            labels = set(metric.labels)
            if metric.kind == "histogram":
                found[f"{metric.name}_bucket"] = labels | {"le"}
                found[f"{metric.name}_count"] = found[f"{metric.name}_sum"] = labels
            else:
                found[metric.name] = labels
    for name, _ in recorded():
        found[name] = {"loss", "exchange"}
    return found


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """(metric, labels that are selected by) of each selector of ours in an expression."""
    for match in _METRIC.finditer(expression):
        yield match[1], set(re.findall(r"(\w+)(?:=~|!~|!=|=)", match[2] or ""))


def wrong(query: Query) -> list[str]:
    """What is named and does not exist."""
    there = known()
    problems = []
    for metric, labels in selectors(query.expression):
        if metric not in there:
            problems.append(f"{query.where}: no metric {metric}")
        elif strange := labels - there[metric] - _TARGETS:
            problems.append(f"{query.where}: {metric} has no label {', '.join(sorted(strange))}")
    return problems
