"""Settings: what they are, their units and what is allowed. `settings_sources.py` loads them.

A section is a table of perpflow.toml; every setting has a default but a venue's `symbols`.
Durations are written with their unit ("250ms", "5s", "2m") and are integer nanoseconds here.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    StringConstraints,
    model_validator,
)

from aggregate.intervals import INTERVALS

_UNITS = {
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_MAX_DURATION = 366 * _UNITS["d"]


def parse_duration(text: object) -> int:
    """Nanoseconds of "250ms", "5s", "1.5m", "24h", "2d". Raises ValueError saying what is allowed.

    A bare number is refused: it would be a guess which unit was meant.
    """
    match = _DURATION.fullmatch(str(text))
    if match is None:
        raise ValueError('should be a number and a unit, like "250ms", "5s" or "2m"')
    number, unit = match.groups()
    if not unit:
        raise ValueError(f'has no unit: write "{number}s" or "{number}ms" ({", ".join(_UNITS)})')
    if unit not in _UNITS:
        raise ValueError(f'"{unit}" is no unit: use one of {", ".join(_UNITS)}')
    nanoseconds = Decimal(number) * _UNITS[unit]
    if nanoseconds != int(nanoseconds):
        raise ValueError("should be a whole number of nanoseconds")
    if nanoseconds > _MAX_DURATION:
        raise ValueError("should be 366d at most")
    return int(nanoseconds)


def format_duration(nanoseconds: int) -> str:
    """The shortest exact text that `parse_duration` reads back."""
    for unit, size in reversed(_UNITS.items()):
        if nanoseconds and nanoseconds % size == 0:
            return f"{nanoseconds // size}{unit}"
    milliseconds = (Decimal(nanoseconds) / _UNITS["ms"]).normalize()
    return f"{milliseconds:f}ms" if nanoseconds else "0s"


def _at_least(minimum: str) -> AfterValidator:
    def check(nanoseconds: int) -> int:
        if nanoseconds < parse_duration(minimum):
            raise ValueError(f'should be "{minimum}" or more')
        return nanoseconds

    return AfterValidator(check)


def _listed(value: object) -> object:
    """The environment and flags hold a list as text: "BTCUSDT,ETHUSDT"."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


def _distinct(values: list[str]) -> list[str]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"names {', '.join(repeated)} more than once")
    return values


def _not_a_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def _interval(name: str) -> str:
    if name not in INTERVALS:
        raise ValueError(f"should be one of {', '.join(INTERVALS)}")
    return name


def _url(*schemes: str) -> Any:
    allowed = " or ".join(f"{scheme}://" for scheme in schemes)

    def check(url: str) -> str:
        scheme, separator, rest = url.partition("://")
        if scheme not in schemes or not separator or not rest:
            raise ValueError(f"should start with {allowed} and go on")
        return url

    return AfterValidator(check)


Duration = Annotated[int, BeforeValidator(parse_duration), PlainSerializer(format_duration)]
"""Nanoseconds in the program, text with a unit wherever it is written."""

Number = BeforeValidator(_not_a_bool)
Symbols = Annotated[
    list[Annotated[str, StringConstraints(pattern=r"^\S+$")]],
    BeforeValidator(_listed),
    AfterValidator(_distinct),
    Field(min_length=1),
]
Dexes = Annotated[
    list[Annotated[str, StringConstraints(pattern=r"^[^\s:*?]+$")]],
    BeforeValidator(_listed),
    AfterValidator(_distinct),
]
Previews = Annotated[
    list[
        Annotated[
            str,
            StringConstraints(
                pattern=r"^(binance-futures|okx-perps|hyperliquid-perps) \S+ \d{4}-(0[1-9]|1[0-2])$"
            ),
        ]
    ],
    BeforeValidator(_listed),
    AfterValidator(_distinct),
]
IntervalName = Annotated[str, AfterValidator(_interval)]
WebsocketUrl = Annotated[str, _url("ws", "wss")]
HttpUrl = Annotated[str, _url("http", "https")]


class Section(BaseModel):
    """A table of settings: what is not known is refused, what is loaded stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(Section):
    """A Kafka cluster as the log. `servers`: "host:port,host:port".

    `prefix`: before all names of topics and transactional ids. `replication`: of topics that
    perpflow makes; by default 3, or the number of brokers if that is smaller. `session`: after so
    long without a sign of life of an aggregator others take its partitions.
    """

    servers: Annotated[str, StringConstraints(pattern=r"^[^\s,:]+:\d+(,[^\s,:]+:\d+)*$")]
    prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = ""
    replication: Annotated[int, Number, Field(ge=1, le=32)] | None = None
    session: Annotated[Duration, _at_least("1s")] = 10_000_000_000
    tls: bool = False
    ca_file: Path | None = None
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password: SecretStr | None = None

    @model_validator(mode="after")
    def _whole(self) -> "KafkaSettings":
        if (self.sasl is None) != (self.username is None and self.password is None):
            raise ValueError("sasl, username and password belong together")
        if self.sasl and not (self.username and self.password):
            raise ValueError("sasl needs both username and password")
        if self.ca_file and not self.tls:
            raise ValueError("ca_file needs tls = true")
        return self


class LogSettings(Section):
    """The log: one SQLite file that every perpflow process of a machine may share, or Kafka."""

    path: Path = Path("perpflow.db")
    partitions: Annotated[int, Number, Field(ge=1, le=1024)] = 4
    retention_hours: Annotated[float, Number, Field(gt=0, le=24 * 366)] = 24.0
    retention_mb: Annotated[int, Number, Field(ge=1)] | None = 20_000
    kafka: KafkaSettings | None = None


class Venue(Section):
    """One venue; URLs default to its public hosts.

    `symbols` are native or Atlas ids, or patterns (`ingest.selection`): BTC*, *-USDT, all.
    """

    symbols: Symbols
    ws_url: WebsocketUrl | None = None
    rest_url: HttpUrl | None = None
    trades: str

    @property
    def chosen_dexes(self) -> Sequence[str]:
        """HIP-3 dexes to select from, on the one venue that has them."""
        return ()


class BinanceVenue(Venue):
    """`trade`: every print, as it happens. `aggTrade`: aggregated, about 100 ms later."""

    trades: Literal["trade", "aggTrade"] = "trade"


class OkxVenue(Venue):
    """`trades-all`: every fill. `trades`: fills of one taker order at one price in one row."""

    trades: Literal["trades-all", "trades"] = "trades-all"


class HyperliquidVenue(Venue):
    """Hyperliquid has one trade feed. `dexes`: HIP-3 dexes whose instruments patterns select too.

    A symbol with a dex's prefix (`xyz:TSLA`, `xyz:*`) needs no such mention.
    """

    trades: Literal["trades"] = "trades"
    dexes: Dexes = []

    @property
    def chosen_dexes(self) -> Sequence[str]:
        return self.dexes


class Venues(Section):
    """The venues to collect, each a table `[venues.<exchange>]`; those without one are left out."""

    binance_futures: Annotated[BinanceVenue | None, Field(alias="binance-futures")] = None
    okx_perps: Annotated[OkxVenue | None, Field(alias="okx-perps")] = None
    hyperliquid_perps: Annotated[HyperliquidVenue | None, Field(alias="hyperliquid-perps")] = None

    def enabled(self) -> dict[str, Venue]:
        """The configured venues by exchange name ("binance-futures", …)."""
        venues: Mapping[str, Venue | None] = {
            "binance-futures": self.binance_futures,
            "okx-perps": self.okx_perps,
            "hyperliquid-perps": self.hyperliquid_perps,
        }
        return {exchange: venue for exchange, venue in venues.items() if venue is not None}


class IngestSettings(Section):
    """Collectors. `record_dir`: where raw frames are recorded too; none: they are not.

    `refresh`: how often the venues' instrument lists are read for listings and changes.
    `processes_per_address`: how many perpflow processes collect the same venues from this machine's
    address; each uses that part of the venues' limits on connections, messages, subscriptions and
    REST requests.
    What the log can't take waits in `spool_dir` (by default beside the log, `<log.path>.spool`), up
    to `spool_mb` a venue, then reading pauses.
    """

    collector: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "c1"
    batch_ms: Annotated[int, Number, Field(ge=1, le=1000)] = 50
    batch_rows: Annotated[int, Number, Field(ge=1, le=65_536)] = 4096
    punctuation_ms: Annotated[int, Number, Field(ge=10, le=5000)] = 250
    record_dir: Path | None = None
    refresh: Annotated[Duration, _at_least("1s")] = 60_000_000_000
    processes_per_address: Annotated[int, Number, Field(ge=1, le=100)] = 1
    spool_dir: Path | None = None
    spool_mb: Annotated[int, Number, Field(ge=1)] = 1024


class AggregateSettings(Section):
    """When windows close (DESIGN decision 3), and over what flow toxicity is normalised.

    `hold`: wait after a window's end. `lateness`: how late a tick may arrive after its exchange
    second and still be in its bar. `eviction`: how far a collector may fall behind its shard.
    """

    hold: Duration = 250_000_000
    lateness: Duration = 5_000_000_000
    eviction: Annotated[Duration, _at_least("1s")] = 30_000_000_000
    toxicity_reset: Literal["month", "day"] = "month"


class PublishSettings(Section):
    """Where the parquet goes, how often, and for how long a folded day part stays readable: longer
    than the URLs are good for that were given out just before.

    `flush_by_interval`: how often the bars of some intervals are written, where not every `flush`.
    `raw`: whether the ticks are archived too. S3's credentials and region come from the usual AWS
    variables and files, never from here.
    """

    url: Annotated[str, _url("file", "s3")] = "file://./perpflow-data"
    flush: Annotated[Duration, _at_least("100ms")] = 30_000_000_000
    flush_by_interval: dict[IntervalName, Annotated[Duration, _at_least("100ms")]] = {}
    grace: Annotated[Duration, _at_least("6m")] = 600_000_000_000
    raw: bool = True
    s3_endpoint: HttpUrl | None = None
    s3_encryption: Literal["AES256", "aws:kms"] | None = None
    s3_kms_key: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> "PublishSettings":
        if self.s3_kms_key and self.s3_encryption != "aws:kms":
            raise ValueError('s3_kms_key needs s3_encryption = "aws:kms"')
        return self


class AuditSettings(Section):
    """`perpflow audit --watch`. `repair`: whether days that differ for known reasons are rewritten.

    `settle`: how long after midnight UTC it begins.
    """

    repair: bool = False
    settle: Annotated[Duration, _at_least("1m")] = 1_200_000_000_000


class ApiSettings(Section):
    """The HTTP API. `port`: `perpflow serve` takes 8080 by default, `run` serves only if it is set.

    `stream_port`: where the live stream is, beside the API; none: it is not served.
    `files_url`: scheme and host of the files' URLs, `{family}` in it is replaced by ohlcv,
    trade-metrics, l1-metrics or raw; by default S3's own, or where the API itself was asked.
    `previews`: what is free, as "EXCHANGE SYMBOL YYYY-MM".
    """

    port: Annotated[int, Number, Field(ge=1, le=65_535)] | None = None
    stream_port: Annotated[int, Number, Field(ge=1, le=65_535)] | None = None
    host: Annotated[str, StringConstraints(min_length=1)] = "127.0.0.1"
    keys: Path = Path("perpflow-keys.json")
    files_url: HttpUrl | None = None
    previews: Previews = []


class MetricsSettings(Section):
    """/metrics, /healthz and /readyz, on the loopback interface unless `host` says otherwise."""

    port: Annotated[int, Number, Field(ge=1, le=65_535)] | None = None
    host: Annotated[str, StringConstraints(min_length=1)] = "127.0.0.1"


class RuntimeSettings(Section):
    """How every daemon runs. `uvloop`: on that event loop, where it is installed."""

    uvloop: bool = True


class Settings(Section):
    """All settings, checked."""

    log: LogSettings = LogSettings()
    venues: Venues = Venues()
    ingest: IngestSettings = IngestSettings()
    aggregate: AggregateSettings = AggregateSettings()
    publish: PublishSettings = PublishSettings()
    audit: AuditSettings = AuditSettings()
    api: ApiSettings = ApiSettings()
    metrics: MetricsSettings = MetricsSettings()
    runtime: RuntimeSettings = RuntimeSettings()
