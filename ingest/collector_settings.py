"""What one collector of one exchange does."""

from dataclasses import dataclass
from pathlib import Path

from ingest.appender import HIGH_WATER, LOW_WATER

SPOOL_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class CollectorSettings:
    """What one collector of one exchange does.

    `ws_url` and `trades` default to the venue's own. Collectors with the same subscriptions share
    a `shard`, by default the exchange's name. Ticks wait at most `batch_ms` or until `batch_rows`
    of a kind and partition are there. Gaps in the trades are filled from `rest_url`; without one
    they are only recorded. A punctuation is written every `punctuation_ms`. Frames are
    recorded as they arrived in `record_dir`. Reading pauses while more than `high_water` bytes of
    records wait for the log, until fewer than `low_water` do; with `spool_dir` records that the log
    does not take wait on disk first, up to `spool_bytes`, and survive a kill. The venue's limits
    are an address's: each of `processes` that collect it from there uses its part.
    """

    exchange: str
    ws_url: str | None = None
    rest_url: str | None = None
    trades: str | None = None
    collector: str = "c1"
    shard: str | None = None
    batch_ms: float = 50.0
    batch_rows: int = 4096
    punctuation_ms: float = 250.0
    record_dir: Path | None = None
    high_water: int = HIGH_WATER
    low_water: int = LOW_WATER
    spool_dir: Path | None = None
    spool_bytes: int = SPOOL_BYTES
    processes: int = 1
