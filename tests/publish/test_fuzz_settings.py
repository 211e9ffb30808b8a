"""Settings files, variables and flags, broken: settings, or one message that says what is wrong."""

from pathlib import Path

import pytest
from hypothesis import strategies as st

from publish.settings_sources import SettingsError, load_settings
from tests.ingest.fuzzing import EXAMPLES, changed, fuzz, readable

SEEDS = (
    (Path(__file__).parents[2] / "perpflow.example.toml").read_bytes(),
    b'[venues.okx-perps]\nsymbols = ["BTC-USDT-SWAP", "*-USDT"]\ntrades = "trades"\n',
    b'[log]\npath = "perpflow.db"\n[log.kafka]\nservers = ["127.0.0.1:9092"]\n',
    b'[ingest]\nbatch = "50ms"\n[publish]\nflush = "10s"\nurl = "s3://bucket/x"\n',
)


def loaded(config: Path | None, flags: list[str], environment: dict[str, str]) -> None:
    try:
        load_settings(config, flags, environment)
    except SettingsError as error:
        readable(error, 20_000)  # which names every wrong setting


@EXAMPLES
def test_files(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "perpflow.toml"

    def check(text: bytes) -> None:
        path.write_bytes(text)
        loaded(path, [], {})

    fuzz(examples, changed(SEEDS), check)


@pytest.mark.parametrize(
    "text",
    [b"a = " + b"[" * 50_000, b"a = " + b"{b = " * 5_000, b".".join([b"a"] * 5_000) + b" = 1"],
)
def test_what_is_nested_too_deeply_is_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "perpflow.toml"
    path.write_bytes(text)
    with pytest.raises(SettingsError, match=r"nested too deeply|not a TOML file"):
        load_settings(path, [], {})


@pytest.mark.parametrize(
    ("text", "says"),
    [(b"[x" + b"x" * 70_000 + b"]\na = 1", "no such setting"), (b"a = " + b"9" * 5_000, "digits")],
)
def test_what_has_no_end_is_refused_in_a_few_words(text: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "perpflow.toml"
    path.write_bytes(text)
    with pytest.raises(SettingsError, match=says) as refused:
        load_settings(path, [], {})
    readable(refused.value)


NAMES = st.sampled_from(
    ["log.path", "publish.flush", "venues.okx-perps.symbols", "ingest", "log", "", ".", "x.y.z"]
) | st.text(max_size=12)
VALUES = st.sampled_from(["", "10s", "-1", "1e9", "9" * 400, "[]", "{}", "nan"]) | st.text(
    max_size=12
)


@EXAMPLES
def test_flags_and_variables(examples: int, tmp_path: Path) -> None:
    empty = tmp_path / "perpflow.toml"
    empty.write_text("")

    def check(given: tuple[str, str, bool]) -> None:
        name, value, equals = given
        loaded(empty, [f"{name}={value}" if equals else name], {})
        loaded(empty, [], {"PERPFLOW_" + name.upper().replace(".", "__"): value})

    fuzz(examples, st.tuples(NAMES, VALUES, st.booleans()), check)
