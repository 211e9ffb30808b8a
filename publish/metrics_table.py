"""docs/metrics.md, made of the metrics that the code declares: `python -m publish.metrics_table`.

A metric is a module attribute of a `metrics.py`; what is there is in the table, and nothing else is
exported under the prefix (tests/publish/test_metrics_table.py).
"""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from prometheus_client.metrics import MetricWrapperBase

PACKAGES = ("ingest", "aggregate", "publish")
_HEAD = """\
# Metrics

Every daemon serves its own at `/metrics`, where `metrics.port` says. This table is made from the
code by `make docs`; CI checks that it is current. Units are seconds and bytes; no label names a
symbol, a key or a URL. A labelled series is there once there is something to tell of; one without
labels is there from the start with 0, in daemons that never touch it too: select by `job`.

Beside these there are the Python client's own `process_*` (CPU, resident memory, open files) and
`python_*`.

## One process, one page

Each daemon is one process with a port of its own, and all threads of a process count in the same
place; so nothing needs the client's multiprocess mode. `perpflow run` has three event loops on
three threads in one process. On Kafka several aggregators share the work, each telling of the
partitions it owns: sum over `instance`. `perpflow replay` works in several processes, for as long
as it takes and without a port: it says at its end what it read and left out.
"""


@dataclass(frozen=True, slots=True)
class Described:
    """A metric as /metrics names it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    about: str


def modules() -> Iterator[ModuleType]:
    """Every `metrics.py` of the packages, in the order of their imports."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        found = pkgutil.walk_packages(package.__path__, f"{name}.")
        for path in sorted(m.name for m in found if m.name.endswith(".metrics")):
            yield importlib.import_module(path)


def described(module: ModuleType) -> list[Described]:
    """The metrics that a module declares, by name."""
    found = []
    for metric in vars(module).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = tuple(metric._labelnames)
            found.append(Described(name, family.type, labels, family.documentation))
    return sorted(found, key=lambda one: one.name)


def table() -> str:
    """The document, as Markdown."""
    parts = [_HEAD]
    for module in modules():
        path = module.__name__.replace(".", "/")
        parts.append(f"\n## {path}.py\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n")
        for one in described(module):
            labels = ", ".join(f"`{label}`" for label in one.labels)
            parts.append(f"| `{one.name}` | {one.kind} | {labels} | {one.about} |\n")
    return "".join(parts)


if __name__ == "__main__":
    print(table(), end="")
