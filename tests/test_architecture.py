"""Imports run publish → aggregate → ingest only, and the pure modules do no I/O.

Read from the sources' syntax trees, so that an import inside a function counts too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "ingest": {"ingest"},
    "aggregate": {"aggregate", "ingest"},
    "publish": {"publish", "aggregate", "ingest"},
}
PROJECT = set(MAY_IMPORT)
PURE = (
    "ingest/errors.py",
    "ingest/ticks.py",
    "ingest/records.py",
    "ingest/instruments.py",
    "ingest/selection.py",
    "ingest/batches.py",
    "ingest/codes.py",
    "ingest/continuity.py",
    "ingest/fills.py",
    "ingest/gaps.py",
    "ingest/recorded_gaps.py",
    "ingest/untraded.py",
    "ingest/ended.py",
    "ingest/history.py",
    "ingest/watchdog.py",
    "ingest/subscriptions.py",
    "ingest/covering.py",
    "ingest/changes.py",
    "ingest/reassign.py",
    "ingest/log/sharing.py",
    "ingest/log/membership.py",
    "ingest/venues/*.py",
    *(f"ingest/simulator/{n}.py" for n in ("market", "prices", "flow", "frames", "venue_frames")),
    *(f"ingest/simulator/{n}.py" for n in ("listings", "protocols")),
    *(f"aggregate/{n}.py" for n in ("intervals", "watermark", "partition", "shard", "seconds")),
    *(
        f"aggregate/{n}.py"
        for n in ("groups", "seen", "expanding", "rollup", "bars", "snapshot", "late_rows")
    ),
    "aggregate/datasets/*.py",
    *(f"publish/{n}.py" for n in ("layout", "merging", "pending", "exclusions")),
)
IMPURE_IMPORTS = {
    *("asyncio", "socket", "ssl", "select", "selectors", "threading", "multiprocessing"),
    *("time", "os", "io", "pathlib", "shutil", "tempfile", "glob", "gzip", "sqlite3", "subprocess"),
    *("random", "secrets", "logging", "structlog", "httpx", "websockets", "fsspec", "s3fs"),
    *("uvloop", "aiokafka", "prometheus_client"),
}
IMPURE_CALLS = {
    *("open", "print", "input"),
    *("datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
    *("np.load", "np.save", "np.fromfile", "np.memmap", "pa.memory_map", "pa.OSFile"),
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def pure_modules() -> list[Path]:
    return sorted({path for pattern in PURE for path in ROOT.glob(pattern)})


def name_of(path: Path) -> str:
    """The dotted module name; a package's is its directory's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a source imports; `from a import b` gives a and a.b."""
    package = name_of(path) if path.stem == "__init__" else name_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def calls(path: Path) -> Iterator[str]:
    """The last two names of every call: `open`, `datetime.now`."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Call):
            yield ".".join(ast.unparse(node.func).split(".")[-2:])


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if (top := name.partition(".")[0]) in PROJECT | {"perpflow", "tests", "benchmarks"}
        and top not in MAY_IMPORT[package]
    ]
    assert wrong == []


@pytest.mark.parametrize("pattern", PURE)
def test_every_pure_module_exists(pattern: str) -> None:
    assert list(ROOT.glob(pattern)), f"nothing matches {pattern}"


@pytest.mark.parametrize("path", pure_modules(), ids=ids(pure_modules()))
def test_pure_modules_have_no_clock_no_files_no_network(path: Path) -> None:
    assert {name.partition(".")[0] for name in imports(path)} & IMPURE_IMPORTS == set()
    assert set(calls(path)) & IMPURE_CALLS == set()


@pytest.mark.parametrize("path", pure_modules(), ids=ids(pure_modules()))
def test_pure_modules_lean_on_nothing_impure(path: Path) -> None:
    """What they import of the project imports no clock, file or network either."""
    modules = {name_of(source): source for package in PROJECT for source in sources(package)}
    reached: set[Path] = set()
    pending = [path]
    while pending:
        source = pending.pop()
        reached.add(source)
        found = {modules[name] for name in imports(source) if name in modules}
        pending += found - reached
    impure = {
        f"{source.relative_to(ROOT)} imports {name}"
        for source in reached
        for name in imports(source)
        if name.partition(".")[0] in IMPURE_IMPORTS
    }
    assert impure == set()


def test_the_check_sees_what_it_should(tmp_path: Path) -> None:
    source = ROOT / "publish" / "settings_sources.py"
    assert {"os", "pathlib", "publish.settings"} <= set(imports(source))
    assert "path.read_text" in set(calls(source))
