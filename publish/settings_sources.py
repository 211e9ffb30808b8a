"""Settings from a TOML file, PERPFLOW_… variables over it and flags over both.

The layers are kept as {path: value}, so that a wrong setting is reported with where it was set,
and an unknown PERPFLOW_ variable is refused like an unknown name in the file (pydantic-settings
does neither, which is why it isn't used here).
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError

from ingest.errors import UserError
from publish.settings import Settings, Venues

SettingPath = tuple[str, ...]
Layer = dict[SettingPath, tuple[object, str]]
"""For each setting: its value as written, and where it was written."""

DEFAULT_FILE = Path("perpflow.toml")
PREFIX = "PERPFLOW_"
# A Kubernetes service called perpflow puts these into every pod of its namespace. A setting in a
# section has a double underscore (PERPFLOW_METRICS__PORT), and they have none.
_SERVICE_LINK = re.compile(r"(?!.*__)PERPFLOW\w*_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP)\w*)?)")
_SHOWN = 200
_SECRETS = {"password"}
_VENUES = {field.alias for field in Venues.model_fields.values()}


class SettingsError(UserError):
    """Settings that are refused; the message lists all of them."""

    exit_code: ClassVar[int] = 2


def load_settings(
    config: Path | None = None,
    assignments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The effective settings. Raises `SettingsError` that names every wrong one.

    `config` is the TOML file (default: ./perpflow.toml if there is one); `assignments` are
    `NAME=VALUE` flags, the name dotted as in the file (`publish.flush=10s`).
    """
    layers = {
        **_from_file(config),
        **_from_environment(os.environ if environment is None else environment),
        **_from_flags(assignments),
    }
    try:
        return Settings.model_validate(_nested(layers))
    except ValidationError as error:
        raise SettingsError(_report(error, layers)) from None


def _from_file(config: Path | None) -> Layer:
    if config is None and not DEFAULT_FILE.exists():
        return {}
    path = config or DEFAULT_FILE
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: (value, str(path)) for name, value in _leaves(document)}
    except OSError as error:
        raise SettingsError(f"{path}: can't read the settings file: {error.strerror}") from None
    except ValueError as error:  # bad syntax, bytes that are no UTF-8, a number without end
        raise SettingsError(f"{path}: not a TOML file: {error}") from None
    except RecursionError:
        raise SettingsError(f"{path}: not settings: nested too deeply") from None


def _leaves(table: Mapping[str, Any], prefix: SettingPath = ()) -> Iterator[tuple[Any, Any]]:
    for key, value in table.items():
        path = (*prefix, key)
        if isinstance(value, dict) and value:
            yield from _leaves(value, path)
        else:
            yield path, value


def _from_environment(environment: Mapping[str, str]) -> Layer:
    return {
        _path(name.removeprefix(PREFIX).lower().split("__")): (value, name)
        for name, value in environment.items()
        if name.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(name)
    }


def _from_flags(assignments: Sequence[str]) -> Layer:
    layer: Layer = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise SettingsError(f"--set {assignment}: write NAME=VALUE, like publish.flush=10s")
        layer[_path(name.strip().split("."))] = (value, f"--set {name}")
    return layer


def _path(parts: Sequence[str]) -> SettingPath:
    """Variables can't hold the hyphen of an exchange name: binance_futures is binance-futures."""
    path = list(parts)
    if path[0] == "venues" and len(path) > 1 and path[1].replace("_", "-") in _VENUES:
        path[1] = path[1].replace("_", "-")
    return tuple(path)


def _nested(layers: Layer) -> dict[str, Any]:
    root: dict[str, Any] = {}
    # Shortest first: where both a scalar and a table are given, the scalar stays and is refused.
    for path in sorted(layers, key=len):
        table: Any = root
        for key in path[:-1]:
            table = table.setdefault(key, {}) if isinstance(table, dict) else None
        if isinstance(table, dict) and not isinstance(table.get(path[-1]), dict):
            table[path[-1]] = layers[path][0]
    return root


def _report(error: ValidationError, layers: Layer) -> str:
    lines = sorted(
        {_line(item["loc"], item["type"], item["msg"], layers) for item in error.errors()}
    )
    if len(lines) == 1:
        return f"wrong setting: {lines[0]}"
    return "\n  ".join([f"{len(lines)} wrong settings:", *lines])


def _line(location: tuple[int | str, ...], kind: str, message: str, layers: Layer) -> str:
    item = next((f"[{part}]" for part in location if isinstance(part, int)), "")
    path = tuple(part for part in location if isinstance(part, str))
    set_path = next((p for p in layers if p[: len(path)] == path or path[: len(p)] == p), None)
    where = f" ({layers[set_path][1]})" if set_path else ""
    name = ".".join(path)[:_SHOWN] + item
    if kind == "extra_forbidden":
        return f"{name}{where}: {_unknown(path)}"
    if kind == "missing":
        return f"{name}: is missing"
    text = message.removeprefix("Value error, ").replace("Input should", "should")
    text = re.sub(r"should be a valid dictionary.*", "should be a table of settings", text)
    value = layers[path][0] if path in layers and path[-1] not in _SECRETS else None
    given = (
        f" (given: {redacted(json.dumps(value, default=str))[:_SHOWN]})"
        if value is not None
        else ""
    )
    return f"{name}{where}: {text}{given}"


def _unknown(path: SettingPath) -> str:
    model: Any = Settings
    for key in path[:-1]:
        model = _section(model, key)
    names = [field.alias or name for name, field in model.model_fields.items()]
    close = difflib.get_close_matches(path[-1], names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    inside = f"[{'.'.join(path[:-1])}] has" if path[:-1] else "there are"
    return f"no such setting: {hint}{inside} {', '.join(names)}"


def _section(model: type[BaseModel], key: str) -> type[BaseModel]:
    """The model of a section's table, also of an optional one."""
    for name, field in model.model_fields.items():
        if (field.alias or name) == key:
            options = getattr(field.annotation, "__args__", (field.annotation,))
            return next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    raise KeyError(key)


def redacted(text: str) -> str:
    """`text` without what URLs may carry of passwords and tokens."""
    text = re.sub(r"://[^/@\s\"]*@", "://***@", text)
    return re.sub(r"(://[^\s\"?]*)\?[^\s\"]*", r"\1?***", text)


def to_toml(settings: Settings) -> str:
    """The settings as a TOML file that loads back to them, but for secrets in URLs."""
    lines: list[str] = []
    tables = settings.model_dump(mode="json", by_alias=True)
    tables["venues"] = {name: venue for name, venue in tables["venues"].items() if venue}
    _write_table(tables, (), lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(table: Mapping[str, Any], path: SettingPath, lines: list[str]) -> None:
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    if len(inner) < len(table) and path:
        lines.append(f"\n[{'.'.join(path)}]")
    for key, value in table.items():
        if value is None:
            lines.append(f"# {key} is not set")
        elif key not in inner:
            lines.append(f"{key} = {redacted(json.dumps(value, ensure_ascii=False))}")
    for key, value in inner.items():
        _write_table(value, (*path, key), lines)
