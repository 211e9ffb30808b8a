"""What replay writes, refuses and leaves: month files, manifests, dry runs, live beside it."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from publish.bar_files import month_file
from publish.columns import Columns
from publish.layout import Part, Series, manifest_key, month_key
from publish.lease import Place, leased
from publish.merging import Position, Rows
from publish.partitions import fold, read_month, read_series, write_part
from publish.replay import writing
from publish.replay.command import ReplayError, ReplayOptions, ReplaySummary, replay
from publish.replay.manifest import day_digest, read_manifest, whole_digest
from publish.settings import PublishSettings
from publish.store import Store
from tests.publish.replay.raw_archives import Seeded, day_start, seeded, write_archive

SEED = 31
VENUE, BTC = "binance-futures", "perpetual-BTC-USDT:USDT"
DAYS = [date(2026, 9, 3) + timedelta(days=i) for i in range(3)]
FLOW = Series("flow", VENUE, BTC, "1h", "exchange")
MONTH = (2026, 9)


@pytest.fixture
def made(tmp_path: Path) -> Seeded:
    of = seeded(SEED, VENUE, BTC, DAYS, 300)
    write_archive(Store(f"file://{tmp_path}/archive"), [of], leave_out=DAYS[2:])
    return of


@pytest.fixture
def out(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path}/out")


def run(out: Store, **options: Any) -> ReplaySummary:
    archive = Path(out.url.removeprefix("file://")).parent / "archive"
    return replay(ReplayOptions([archive], None, out.url, **options))


def contents(out: Store) -> dict[str, bytes]:
    return {key: out.get(key) for key in out.list("") if not key.startswith("leases/")}


def live_part(out: Store, day: date, times: list[int]) -> None:
    """As the publisher leaves bars of an open day; values are of no replay."""
    with month_file(out, month_key(FLOW, *MONTH)) as file:
        schema = file.schema
    columns = {name: pa.array(np.full(len(times), 7.0)) for name in schema.names}
    columns["time"] = pa.array([(day_start(day) + at) * 10**6 for at in times], pa.timestamp("us"))
    table = pa.table([columns[n].cast(schema.field(n).type) for n in schema.names], schema=schema)
    write_part(out, FLOW, Part(day), Rows(table, np.arange(len(times)), Position(0, 10)))


def test_a_manifest_says_what_the_file_is_made_of(made: Seeded, out: Store) -> None:
    summary = run(out)
    keys = out.list("metrics")
    assert summary.files == len(keys) == 120
    assert all(key.endswith("/data.parquet") for key in keys)
    assert len(out.list("metrics_manifest")) == 120
    manifest = read_manifest(out, FLOW, *MONTH)
    assert manifest is not None
    with month_file(out, month_key(FLOW, *MONTH)) as file:
        days = {day: day_digest(table) for day, table in file.days_but(())}
        assert (file.month.arrival, file.month.replay) == ("recorded", manifest.replay)
    assert manifest.days == {str(day): digest for day, digest in days.items()}
    assert manifest.digest == whole_digest(days)
    assert manifest.rows == len(read_series(out, FLOW, *MONTH))
    assert (manifest.first[:10], manifest.last[:10]) == ("2026-09-03", "2026-09-04")
    assert {key.split("/")[1] for key in manifest.sources} == {"trades", "quotes"}
    assert len(manifest.series) == 120
    assert manifest.settings["lateness_ns"] is None


def test_what_is_finished_is_known_by_content_not_by_date(made: Seeded, out: Store) -> None:
    run(out)
    before = contents(out)
    again = run(out)
    assert [of.skipped for of in again.results] == [True]
    assert "1 months were finished before" in str(again)
    out.delete(manifest_key(month_key(FLOW, *MONTH)))  # as after a kill
    assert [of.skipped for of in run(out).results] == [False]
    assert contents(out) == before


def test_other_settings_replace_only_what_they_are_forced_to(made: Seeded, out: Store) -> None:
    run(out)
    before = contents(out)
    with pytest.raises(ReplayError, match="2026-09-03 and 1 more days: pass --force"):
        run(out, toxicity_reset="day")
    assert contents(out) == before
    run(out, toxicity_reset="day", force=True)
    manifest = read_manifest(out, FLOW, *MONTH)
    assert manifest is not None
    assert manifest.settings["toxicity_reset"] == "day"


def test_a_dry_run_says_what_would_change_and_writes_nothing(
    made: Seeded, out: Store, tmp_path: Path
) -> None:
    dry = run(out, dry=True)
    assert contents(out) == {}
    assert dry.changes.days["new"] > 200
    assert dry.changes.rows["new"] == dry.bars > 10_000
    assert "nothing was written" in str(dry)
    assert run(out).bars == dry.bars
    before = contents(out)
    # Another day, whose stragglers belong to the days before it.
    write_archive(Store(f"file://{tmp_path}/archive"), [made])
    dry = run(out, dry=True)
    rows = dry.changes.rows
    assert rows["same"] > 1000
    assert rows["different"] > 0
    assert rows["new"] + rows["same"] + rows["different"] == dry.bars
    assert contents(out) == before
    done = run(out, force=True)
    assert done.changes.rows == rows


def test_days_of_live_are_refused_and_stay_beside(made: Seeded, out: Store) -> None:
    run(out)
    live_part(out, DAYS[2], [0, 3600])
    fold(out, Columns(out), FLOW, DAYS[2], 1000.0)
    # What the manifest said is no longer true; what replay assumed of arrivals still is.
    assert read_manifest(out, FLOW, *MONTH) is None
    month = read_month(out, FLOW, *MONTH)
    assert month.days == frozenset(DAYS)
    assert (month.arrival, month.replay) == ("recorded", "")
    with pytest.raises(ReplayError, match="already holds flow 1h"):
        run(out)
    summary = run(out, force=True)
    assert "1 other days of these months stay as they are" in str(summary)
    manifest = read_manifest(out, FLOW, *MONTH)
    assert manifest is not None
    assert manifest.kept == [str(DAYS[2])]
    assert set(manifest.days) == set(map(str, DAYS))
    table = read_series(out, FLOW, *MONTH)
    assert manifest.rows == len(table)
    assert table["taker_buy_volume"].to_pylist()[-2:] == [7.0, 7.0]


def test_a_lease_that_another_has_is_waited_for_then_told(
    made: Seeded, out: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "PATIENCE_S", 0.0)
    with (
        leased(out, Place("flow", VENUE, BTC, *MONTH), "publisher"),
        pytest.raises(ReplayError, match=r"leases/flow/.*2026-09.json is held by publisher"),
    ):
        run(out)
    assert out.list("metrics_manifest") == []
    run(out)
    assert len(out.list("metrics_manifest")) == 120


def test_a_damaged_file_is_named_and_others_go_on(made: Seeded, out: Store, tmp_path: Path) -> None:
    other = seeded(SEED, VENUE, "perpetual-ETH-USDT:USDT", DAYS, 300)
    archive = Store(f"file://{tmp_path}/archive")
    write_archive(archive, [other, made], leave_out=DAYS[2:])
    key = next(key for key in archive.list("raw/trades") if "BTC" in key)
    data = archive.get(key)
    archive.put(key, data[:200] + bytes(400) + data[600:])
    with pytest.raises(ReplayError, match=key):
        run(out)
    symbols = {key.split("/symbol=")[1].split("/")[0] for key in out.list("metrics_manifest")}
    assert symbols == {"perpetual-ETH-USDT:USDT"}


def test_an_archive_on_s3_is_replayed_to_s3_and_known_as_finished(
    s3_endpoint: str, s3_bucket: str
) -> None:
    place = PublishSettings(s3_endpoint=s3_endpoint)
    archive = Store(f"{s3_bucket}/archive", endpoint_url=s3_endpoint)
    out = Store(f"{s3_bucket}/out", endpoint_url=s3_endpoint)
    write_archive(archive, [seeded(SEED, VENUE, BTC, DAYS[:1], 200)])
    options = ReplayOptions([archive.url], None, out.url, publish=place)
    first = replay(options)
    manifest = read_manifest(out, FLOW, *MONTH)
    assert manifest is not None
    with month_file(out, month_key(FLOW, *MONTH)) as file:
        assert file.month.replay == manifest.replay
        assert manifest.digest == whole_digest({d: day_digest(t) for d, t in file.days_but(())})
    assert first.files == len(out.list("metrics")) == len(manifest.series)
    assert [of.skipped for of in replay(options).results] == [True]
    assert out.list("leases") == []
