"""The command line as a user meets it: the real command in a process of its own."""

import asyncio
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import orjson
import pytest

from ingest.errors import UserError
from ingest.log import NewRecord
from ingest.log.sqlite import SqliteLog
from ingest.records import PUNCTUATION, TRADES_TOPIC, Source

ROOT = Path(__file__).parents[1]


def perpflow(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `perpflow …` in `cwd`, without PERPFLOW_ variables but those given."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PERPFLOW_")}
    return subprocess.run(
        [sys.executable, "-m", "perpflow", *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_refused(result: "subprocess.CompletedProcess[str]", code: int, *texts: str) -> None:
    """The exit code, the texts on stderr, nothing on stdout, and never a traceback."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for text in texts:
        assert text in result.stderr


def test_version_and_help(tmp_path: Path) -> None:
    assert perpflow("--version", cwd=tmp_path).stdout == "perpflow 0.1.0\n"
    result = perpflow("--help", cwd=tmp_path)
    assert result.returncode == 0
    for command in ("run", "demo", "serve", "keys", "replay", "audit", "tail", "doctor"):
        assert command in result.stdout


def test_wrong_settings_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "perpflow.toml").write_text('[log]\npartitions = 0\n[publish]\nurl = "x"\n')
    result = perpflow("run", "--set", "metrics.port=0", cwd=tmp_path, PERPFLOW_LOG__PTH="x")
    assert_refused(
        result, 2, "4 wrong settings", "log.partitions", "publish.url", "metrics.port", "log.pth"
    )


def test_check_config_prints_the_effective_settings_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "perpflow.toml").write_text(
        '[venues.binance-futures]\nsymbols = ["BTCUSDT"]\nrest_url = "http://me:hunter2@host"\n'
    )
    result = perpflow(
        "check-config", "--set", "log.partitions=2", cwd=tmp_path, PERPFLOW_PUBLISH__FLUSH="90s"
    )
    assert result.returncode == 0
    assert result.stderr == ""
    assert "hunter2" not in result.stdout
    printed = tomllib.loads(result.stdout)
    assert printed["log"]["partitions"] == 2
    assert printed["publish"]["flush"] == "90s"
    assert printed["venues"]["binance-futures"]["symbols"] == ["BTCUSDT"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "--sumbols", "x"], "No such option: --sumbols"),
        (["nonsense"], "No such command 'nonsense'"),
        (["replay", "--venue", "okx-perps", "--out", "file://x"], "SOURCE"),
        (["replay", "x.gz", "--venue", "okx", "--out", "file://x"], "'okx' is not one of"),
        (
            ["replay", "x.gz", "--venue", "okx-perps", "--out", "file://x", "--lateness", "5"],
            'has no unit: write "5s"',
        ),
        (["audit", "--month", "2026-13"], 'should be a month like "2026-11"'),
        (["audit", "--json", "nowhere/found.json"], "nowhere/found.json: can't be written there"),
        (["audit", "--watch", "--repair"], "repairs if audit.repair is set"),
        (["tail", "bars", "--from", "yesterday"], "should be start, end, an offset, a time"),
        (["run", "--set", "log.path"], "write NAME=VALUE"),
        (["run", "--config", "missing.toml"], "missing.toml: can't read the settings file"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], text: str) -> None:
    assert_refused(perpflow(*arguments, cwd=tmp_path), 2, text)


def test_run_without_a_venue(tmp_path: Path) -> None:
    assert_refused(perpflow("run", cwd=tmp_path), 1, "no venue is configured")


def test_replay_of_a_missing_file(tmp_path: Path) -> None:
    result = perpflow(
        "replay", "missing.gz", "--venue", "binance-futures", "--out", "file://out", cwd=tmp_path
    )
    assert_refused(result, 1, "missing.gz")
    assert not (tmp_path / "out").exists()


def test_audit_of_a_store_without_raw_ticks(tmp_path: Path) -> None:
    result = perpflow("audit", "--day", "2026-11-20", cwd=tmp_path)
    assert_refused(result, 1, "has no raw ticks of 2026-11-20")
    assert not (tmp_path / "perpflow-data").exists()


def test_replay_to_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    (tmp_path / "recording").write_text(
        '1721300000000000000 {"stream":"btcusdt@bookTicker","data":{}}\n'
    )
    out = f"file://{tmp_path}/file/bars"
    result = perpflow(
        "replay", "recording", "--venue", "binance-futures", "--out", out, cwd=tmp_path
    )
    assert_refused(result, 1, f"{tmp_path}/file")


def test_tail_of_a_missing_log(tmp_path: Path) -> None:
    result = perpflow("tail", "bars", "--set", "log.path=nowhere.db", cwd=tmp_path)
    assert_refused(result, 1, "nowhere.db: no such log")
    assert not (tmp_path / "nowhere.db").exists()


def test_tail_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "perpflow.db").write_text("these are not the records you are looking for" * 100)
    assert_refused(perpflow("tail", "bars", cwd=tmp_path), 1, "perpflow.db")


async def _fill(path: Path, count: int) -> None:
    source = Source("okx-perps", "okx-perps", "c1", "1")
    log = SqliteLog(path)
    await log.create({TRADES_TOPIC: 1})
    await log.append(
        [
            NewRecord(TRADES_TOPIC, 0, b"", source.headers(PUNCTUATION, seq, local_ts=str(seq)))
            for seq in range(count)
        ]
    )
    await log.close()


def test_tail_prints_json_lines(tmp_path: Path) -> None:
    asyncio.run(_fill(tmp_path / "perpflow.db", 5))
    result = perpflow("tail", "ticks.trades", "--from", "3", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [orjson.loads(line)["offset"] for line in result.stdout.splitlines()] == [3, 4]
    assert_refused(perpflow("tail", "ticks.nothing", cwd=tmp_path), 1, "ticks.nothing")


def test_a_reader_that_goes_away_ends_tail_quietly(tmp_path: Path) -> None:
    asyncio.run(_fill(tmp_path / "perpflow.db", 20_000))
    command = [sys.executable, "-m", "perpflow", "tail", "ticks.trades"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"topic":"ticks.trades"')
        process.stdout.close()
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == b""


def test_help_and_refusals_are_immediate(tmp_path: Path) -> None:
    """They don't import what only the daemons need (pyarrow, polars, s3fs: a second or more)."""
    code = (
        "import sys; sys.argv = ['perpflow', 'check-config']; import perpflow\n"
        "perpflow.app(standalone_mode=False)\n"
        "assert not {'numpy', 'pyarrow', 's3fs'} & set(sys.modules)"
    )
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    "name",
    [
        "ingest.log:LogError",
        "ingest.recorder:RecordingError",
        "publish.store:StoreError",
        "publish.settings_sources:SettingsError",
    ],
)
def test_errors_a_user_can_mend_have_one_base(name: str) -> None:
    module, _, attribute = name.partition(":")
    imported = __import__(module, fromlist=[attribute])
    assert issubclass(getattr(imported, attribute), UserError)


def test_doctor_of_a_venue_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "perpflow.toml").write_text(
        '[venues.binance-futures]\nsymbols = ["BTC*"]\n'
        'ws_url = "ws://127.0.0.1:1"\nrest_url = "http://127.0.0.1:1"\n'
    )
    result = perpflow("doctor", "--timeout", "2s", cwd=tmp_path)
    assert result.returncode == 1
    assert "binance-futures    websocket tcp  failed   127.0.0.1:1: " in result.stdout
    assert result.stderr == "perpflow: 1 of 6 checks failed\n"
    listed = perpflow("instruments", cwd=tmp_path)
    assert listed.returncode == 1
    assert "can't reach http://127.0.0.1:1/fapi/v1/exchangeInfo: Connection" in listed.stderr
