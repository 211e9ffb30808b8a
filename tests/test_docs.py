"""README and the pages of docs/ name only what there is: commands and flags, settings, metrics,
files, headings."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

import perpflow
from publish import metrics_table
from publish.settings import Settings
from publish.settings_sources import load_settings

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
EVERYWHERE = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"]
SECTIONS = "|".join(Settings.model_fields)
SOURCES = ("ingest", "aggregate", "publish", "tests", "benchmarks", "deploy")
NOT_SETTINGS = {"PERPFLOW_TEST_KAFKA", "PERPFLOW_SERVICE_HOST"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def inline(page: Path) -> Iterator[str]:
    """What is between backticks, on one line."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return (" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text))


def blocks(page: Path) -> list[str]:
    """The lines of indented blocks, without what explains them."""
    indented = re.findall(r"^ {4}(\S.*)$", page.read_text(), re.M)
    return [re.sub(r"\s+#.*", "", line) for line in indented]


def commands(lines: Iterable[str]) -> list[list[str]]:
    """The arguments of each `perpflow …`; what stands for a value becomes one."""
    found = []
    for part in (part for line in lines for part in line.split(" & ")):
        match = re.search(r"(?:^|/|SERVICE )perpflow (\S.*)", part.removesuffix(" &"))
        if match and "|" not in part:
            text = re.sub(r"(?: --[\w-]+)? …", "", match[1]).replace("…", "")
            found.append(shlex.split(re.sub(r"\bN\b", "1", text)))
    return found


def parsed(arguments: list[str]) -> str:
    """What the command line's own parser has against them, "" if nothing; nothing is run."""
    command: Any = typer.main.get_command(perpflow.app)
    while arguments and hasattr(command, "commands"):
        name, *arguments = arguments
        if name not in command.commands:
            return f"there is no command {name}"
        command = command.commands[name]
    if not arguments:  # it is named, not called
        return ""
    try:
        command.make_context("perpflow", arguments)
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def settings_in(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The full names of all settings, and of the tables that hold them."""
    for name, field in model.model_fields.items():
        full = prefix + (field.alias or name)
        yield full
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from settings_in(inner, f"{full}.")


KNOWN = frozenset(settings_in(Settings))


def settings_named(text: str) -> Iterator[str]:
    """`section.name`, alone or with a value, `[section]`, `--set section.name=…`."""
    yield from re.findall(rf"^((?:{SECTIONS})(?:\.[a-z_-]+)+)(?: ?=.*)?$", text)
    yield from re.findall(rf"^\[((?:{SECTIONS})(?:\.[a-z-]+)?)\]$", text)
    yield from re.findall(r"--set ([a-z_.-]+)", text)


def test_it_finds_what_it_should() -> None:
    said = [of for page in PAGES for of in commands([*blocks(page), *inline(page)])]
    assert ["topics", "create"] in said
    assert ["audit", "--day", "YYYY-MM-DD", "--json", "found.json"] in said
    assert ["serve", "--set", "publish.url=file://demo-data/bars"] in said
    assert len(said) > 50
    assert {"log.kafka.password", "venues.okx-perps.symbols", "publish.flush"} <= KNOWN
    for wrong in (["tail", "--form", "end"], ["keys", "make"], ["replay", "--speed", "fast", "x"]):
        assert parsed(wrong) != "", wrong


@pages
def test_every_command_is_one(page: Path) -> None:
    for arguments in commands(blocks(page)):
        assert parsed(arguments) == "", shlex.join(arguments)
    for arguments in commands(inline(page)):
        # In a sentence a command may be without what it works on.
        assert re.match("$|Missing", parsed(arguments)), shlex.join(arguments)


@pages
def test_every_setting_is_one(page: Path) -> None:
    for text in (*blocks(page), *inline(page)):
        for name in settings_named(text):
            module = ROOT / name.replace(".", "/")
            assert name in KNOWN or module.with_suffix(".py").exists() or module.is_dir(), name
    variables = set(re.findall(r"\bPERPFLOW_[A-Z0-9_]+\b", page.read_text())) - NOT_SETTINGS
    for variable in variables:
        name = variable.removeprefix("PERPFLOW_").lower().replace("__", ".")
        assert name in {known.replace("-", "_") for known in KNOWN}, variable


@pages
def test_every_table_of_settings_is_accepted(page: Path, tmp_path: Path) -> None:
    for text in code(page, "toml"):
        config = tmp_path / "perpflow.toml"
        config.write_text(text)
        password = {"PERPFLOW_LOG__KAFKA__PASSWORD": "x"} if "sasl" in text else {}
        load_settings(config, environment=password)


@pages
def test_every_metric_is_one(page: Path) -> None:
    exists = set(re.findall(r"`(perpflow_\w+)`", metrics_table.table()))
    for name in re.findall(r"\b(perpflow_\w+)", page.read_text()):
        assert any(of.startswith(name) if name.endswith("_") else of == name for of in exists), name


def heading_id(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in map(heading_id, headings), link


@pages
def test_every_source_file_is_there(page: Path) -> None:
    """By its path, or by the end of it."""
    for name in inline(page):
        if re.fullmatch(r"[\w./{},*-]+\.py", name):
            for path in expanded(name):
                inside = (of for top in SOURCES for of in (ROOT / top).glob(f"**/{path}"))
                assert any(ROOT.glob(path)) or any(inside), name


def expanded(name: str) -> list[str]:
    """`a/{b,c}.py` as a shell takes it."""
    found = re.fullmatch(r"(.*)\{(.*)\}(.*)", name)
    if found is None:
        return [name]
    return [f"{found[1]}{part}{found[3]}" for part in found[2].split(",")]
