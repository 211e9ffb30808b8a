"""publish/settings.py and settings_sources.py: layers, durations, and every wrong setting named."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publish.log import kafka_options
from publish.settings import format_duration, parse_duration
from publish.settings_sources import SettingsError, load_settings, to_toml

EXAMPLE = Path(__file__).parents[2] / "perpflow.example.toml"


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(toml: str = "", *flags: str, **environment: str) -> str:
    """What `load_settings` says about wrong settings."""
    Path("wrong.toml").write_text(toml)
    with pytest.raises(SettingsError) as refused:
        load_settings(Path("wrong.toml"), flags, environment)
    assert refused.value.exit_code == 2
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("250ms", 250_000_000),
        ("5s", 5_000_000_000),
        ("1.5s", 1_500_000_000),
        ("2m", 120_000_000_000),
        (" 24 h ", 86_400_000_000_000),
        ("2d", 172_800_000_000_000),
        ("0s", 0),
    ],
)
def test_durations_are_nanoseconds(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@given(st.integers(min_value=0, max_value=366 * 86_400 * 10**9))
def test_a_written_duration_reads_back(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (30, 'has no unit: write "30s" or "30ms"'),
        ("30", 'has no unit: write "30s" or "30ms"'),
        ("5 minutes", '"minutes" is no unit: use one of ms, s, m, h, d'),
        ("-5s", "should be a number and a unit"),
        ("", "should be a number and a unit"),
        (True, "should be a number and a unit"),
        ("400d", "should be 366d at most"),
        ("0.0000001ms", "whole number of nanoseconds"),
    ],
)
def test_a_wrong_duration_says_what_to_write(text: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_duration(text)


def test_defaults_without_a_file() -> None:
    settings = load_settings(environment={})
    assert settings.log.partitions == 4
    assert settings.aggregate.hold == 250_000_000
    assert settings.venues.enabled() == {}


def test_flags_win_over_the_environment_and_that_over_the_file() -> None:
    Path("perpflow.toml").write_text(
        '[log]\npartitions = 1\npath = "file.db"\n[publish]\nflush = "1s"\n'
    )
    settings = load_settings(
        None,
        ["log.partitions=3"],
        {"PERPFLOW_LOG__PARTITIONS": "2", "PERPFLOW_PUBLISH__FLUSH": "2s"},
    )
    assert settings.log.partitions == 3
    assert settings.publish.flush == 2_000_000_000
    assert settings.log.path == Path("file.db")


def test_a_venue_of_the_file_is_changed_by_the_environment() -> None:
    Path("perpflow.toml").write_text(
        '[venues.okx-perps]\nsymbols = ["BTC-USDT-SWAP"]\ntrades = "trades"\n'
    )
    settings = load_settings(
        environment={
            "PERPFLOW_VENUES__OKX_PERPS__SYMBOLS": "BTC-USD-SWAP, ETH-USDT-SWAP",
            "PERPFLOW_VENUES__BINANCE_FUTURES__SYMBOLS": "BTCUSDT",
        }
    )
    venues = settings.venues.enabled()
    assert list(venues) == ["binance-futures", "okx-perps"]
    assert venues["okx-perps"].symbols == ["BTC-USD-SWAP", "ETH-USDT-SWAP"]
    assert venues["okx-perps"].trades == "trades"
    assert venues["binance-futures"].trades == "trade"


def test_every_wrong_setting_is_named_with_where_it_was_set() -> None:
    message = refusal(
        """
        [log]
        partitons = 4
        [publish]
        flush = 30
        url = "gs://bucket"
        [venues.okx-perps]
        trades = "all"
        """,
        "ingest.batch_ms=0",
        PERPFLOW_METRICS__PORT="http",
        PERPFLOW_LOGS__PATH="x",
    )
    assert message.splitlines() == [
        "8 wrong settings:",
        "  ingest.batch_ms (--set ingest.batch_ms): should be greater than or equal to 1"
        ' (given: "0")',
        "  log.partitons (wrong.toml): no such setting: did you mean partitions?"
        " [log] has path, partitions, retention_hours, retention_mb, kafka",
        "  logs (PERPFLOW_LOGS__PATH): no such setting: did you mean log?"
        " there are log, venues, ingest, aggregate, publish, audit, api, metrics, runtime",
        "  metrics.port (PERPFLOW_METRICS__PORT): should be a valid integer, unable to parse string"
        ' as an integer (given: "http")',
        '  publish.flush (wrong.toml): has no unit: write "30s" or "30ms" (ms, s, m, h, d)'
        " (given: 30)",
        "  publish.url (wrong.toml): should start with file:// or s3:// and go on"
        ' (given: "gs://bucket")',
        "  venues.okx-perps.symbols: is missing",
        "  venues.okx-perps.trades (wrong.toml): should be 'trades-all' or 'trades'"
        ' (given: "all")',
    ]


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("log = 5", "log (wrong.toml): should be a table of settings"),
        ("[log]\npartitions = true", "log.partitions (wrong.toml): should be a number"),
        ("[venues.binance]\nsymbols = []", "venues.binance (wrong.toml): no such setting"),
        ("[venues.okx-perps]\nsymbols = []", "venues.okx-perps.symbols (wrong.toml)"),
        ('[venues.okx-perps]\nsymbols = ["A", "A"]', "names A more than once"),
        ('[venues.okx-perps]\nsymbols = ["A", " "]', "venues.okx-perps.symbols[1] (wrong.toml)"),
        ('[aggregate]\neviction = "1ms"', 'should be "1s" or more'),
        ('[publish]\ngrace = "5m"', 'should be "6m" or more'),
        ('[publish]\nflush_by_interval = {2s = "1m"}', "should be one of 1s, 15s, 30s, 1m"),
        ("[publish.flush_by_interval]\n1s = 60", 'has no unit: write "60s"'),
        ('[publish]\ns3_kms_key = "k"', 's3_kms_key needs s3_encryption = "aws:kms"'),
        ("[log", "wrong.toml: not a TOML file"),
    ],
)
def test_wrong_files(toml: str, message: str) -> None:
    assert message in refusal(toml)


def test_a_scalar_and_a_table_of_one_name_are_refused() -> None:
    message = refusal("", "log.partitions=2", PERPFLOW_LOG="x")
    assert message == (
        'wrong setting: log (PERPFLOW_LOG): should be a table of settings (given: "x")'
    )


def test_a_flag_needs_a_value() -> None:
    assert "--set log.path: write NAME=VALUE" in refusal("", "log.path")


def test_a_misspelt_variable_is_refused() -> None:
    assert "log_path (PERPFLOW_LOG_PATH): no such setting" in refusal(PERPFLOW_LOG_PATH="x")


def test_the_variables_kubernetes_makes_for_a_service_are_no_settings() -> None:
    service = {
        "PERPFLOW_SERVICE_HOST": "10.0.0.1",
        "PERPFLOW_SERVICE_PORT": "80",
        "PERPFLOW_PORT": "tcp://10.0.0.1:80",
        "PERPFLOW_API_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    settings = load_settings(environment={**service, "PERPFLOW_METRICS__PORT": "9108"})
    assert settings.metrics.port == 9108


def test_secrets_are_neither_printed_nor_in_messages() -> None:
    Path("perpflow.toml").write_text(
        '[venues.okx-perps]\nsymbols = ["A"]\nws_url = "wss://me:hunter2@host/ws?token=hunter2"\n'
    )
    assert "hunter2" not in to_toml(load_settings(environment={}))
    message = refusal(
        '[publish]\nsecret_key = "hunter2"\nurl = "https://me:hunter2@host/?sig=hunter2"\n'
    )
    assert "publish.secret_key" in message
    assert "publish.url" in message
    assert "hunter2" not in message


KAFKA = '[log.kafka]\nservers = "k1:9092,k2:9092"\n'


def test_the_password_of_kafka_is_neither_printed_nor_in_messages() -> None:
    sasl = KAFKA + 'tls = true\nsasl = "SCRAM-SHA-512"\nusername = "me"\n'
    Path("perpflow.toml").write_text(sasl + 'password = "hunter2"\n')
    settings = load_settings(environment={})
    assert "hunter2" not in to_toml(settings) + repr(settings)
    options = kafka_options(settings.log)
    assert options.password == "hunter2"
    assert "hunter2" not in repr(options)
    assert options.arguments()["security_protocol"] == "SASL_SSL"
    assert "20000017" not in refusal(sasl + "password = 20000017\n")
    assert "hunter2" not in refusal(sasl + 'password = "hunter2"\nservers2 = 1\n')


@pytest.mark.parametrize(
    "preview",
    ["binance-futures BTC", "nyse A 2026-10", "okx-perps A 2026-13", "okx-perps  A 2026-10"],
)
def test_wrong_previews(preview: str) -> None:
    assert "api.previews" in refusal(f'[api]\npreviews = ["{preview}"]')


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[log.kafka]\nservers = "k1"', "log.kafka.servers"),
        (KAFKA + 'username = "me"', "sasl, username and password belong together"),
        (KAFKA + 'sasl = "PLAIN"\nusername = "me"', "sasl needs both username and password"),
        (KAFKA + 'ca_file = "ca.pem"', "ca_file needs tls = true"),
        (KAFKA + 'prefix = "a/b"', "log.kafka.prefix"),
        ("[log.kafka]", "log.kafka"),
    ],
)
def test_wrong_kafka_settings(toml: str, message: str) -> None:
    assert message in refusal(toml)


def test_what_is_printed_loads_back() -> None:
    flags = ['ingest.record_dir=a "b"', "metrics.port=1", "publish.flush_by_interval.1s=1m"]
    settings = load_settings(EXAMPLE, flags, {})
    assert settings.publish.flush_by_interval == {"1s": 60_000_000_000}
    printed = Path("printed.toml")
    printed.write_text(to_toml(settings))
    assert load_settings(printed, (), {}) == settings


def test_the_example_shows_every_setting_with_its_default() -> None:
    example = load_settings(EXAMPLE, environment={})
    default = load_settings(environment={})
    assert example.model_copy(update={"venues": default.venues}) == default
    text = EXAMPLE.read_text()
    for section in tomllib.loads(to_toml(default)):
        for name in type(getattr(default, section)).model_fields:
            assert name in text
