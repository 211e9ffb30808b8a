"""`make bench`: run every benchmarks/bench_*.py, keep the results, show and write the table.

A benchmark module has a docstring that says what it measures and a `run() -> list[Result]`.
"""

import importlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.result import Result

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: make bench -->", "<!-- end of results -->"


def main(names: Sequence[str]) -> None:
    """Run all benchmarks, or the named ones (`bench_parse`) and keep the others' figures."""
    results: list[Result] = []
    for name in names or sorted(path.stem for path in HERE.glob("bench_*.py")):
        print(f"{name} …", file=sys.stderr, flush=True)
        results += importlib.import_module(f"benchmarks.{name}").run()
    print(markdown(results))
    kept = HERE / "results.json"
    if names:
        results = replaced(read(kept), results)
    kept.write_text(json.dumps({r.name: entry(r) for r in results}, indent=2) + "\n")
    readme = HERE / "README.md"
    readme.write_text(with_table(readme.read_text(), f"{machine()}\n\n{markdown(results)}"))


def read(path: Path) -> list[Result]:
    """What `results.json` has."""
    return [Result(name, **of) for name, of in json.loads(path.read_text()).items()]


def replaced(before: Sequence[Result], now: Sequence[Result]) -> list[Result]:
    """All figures: those of `now` instead of what had their names, or at the end."""
    new = {result.name: result for result in now}
    kept = [new.pop(result.name, result) for result in before]
    return [*kept, *new.values()]


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((x.split(": ")[1] for x in lines if x.startswith("model name")), model)
    return f"Python {platform.python_version()}, {os.cpu_count()} × {model}, {platform.system()}"


def entry(result: Result) -> dict[str, object]:
    """What results.json keeps of a figure."""
    kept = asdict(result)
    del kept["name"]
    return kept


def markdown(results: Sequence[Result]) -> str:
    rows = ["| what | measured | target | unit | |", "|---|---:|---:|---|---|"]
    for result in results:
        target = "" if result.target is None else f"{_bound(result)} {_number(result.target)}"
        verdict = {None: "", True: "met", False: "**missed**"}[result.met]
        rows.append(
            f"| {result.name} | {_number(result.value)} | {target} | {result.unit} | {verdict} |"
        )
    return "\n".join(rows)


def _bound(result: Result) -> str:
    return "≥" if result.better == "higher" else "≤"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def with_table(text: str, table: str) -> str:
    """`text` with what stands between the markers replaced."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"benchmarks/README.md lacks the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


if __name__ == "__main__":
    main(sys.argv[1:])
