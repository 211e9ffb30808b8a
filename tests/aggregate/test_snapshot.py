"""The state's layout against a golden file: whoever changes it does so on purpose.

A change here needs a new `snapshot.VERSION`, and logs with the old state are then refused by name.
To write the golden file anew: `python -m tests.aggregate.test_snapshot`.
"""

import json
from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from aggregate import snapshot
from aggregate.intervals import CLOCKS, NS
from aggregate.partition import PartitionAggregator
from aggregate.shard import Rules, ShardAggregator
from ingest import records
from tests.aggregate.helpers import TopicWriter, batch, no_owner
from tests.aggregate.strategies import SYMBOLS
from tests.aggregate.test_shard import tick

GOLDEN = Path(__file__).with_name("snapshot_layout.json")
START = 1_709_251_190


def quote(at, **more):
    return {
        "symbol": SYMBOLS[0],
        "exchange_ts": round(at * NS),
        "local_ts": round(at * NS),
        "sequence": round(at * 1000),
        "bid_price": 99.0,
        "bid_qty": 1.0,
        "ask_price": 101.0,
        "ask_qty": 2.0,
        "origin": 0,
        "row": 0,
        **more,
    }


def state_of(exchange):
    """The state after two hours with a tick of each kind every ten seconds."""
    shard = ShardAggregator(exchange, Rules())
    shard.cover(SYMBOLS, START * NS, START * NS)
    stamps = [START + 10 * i + 0.5 for i in range(720)]
    shard.add(batch("trades", [tick(s, s, id=i) for i, s in enumerate(stamps)]), "c1")
    shard.add(batch("quotes", [quote(s) for s in stamps]), "c1")
    shard.advance((START + 7200) * NS)
    return {key: value for key, value in shard.changes().items() if value is not None}


def shape(value):
    """What a JSON value is made of: the keys of objects, the types of the rest."""
    if isinstance(value, dict):
        return {key: shape(v) for key, v in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def layout(value):
    """Columns and types of Arrow rows, else the shape of JSON, else that it is bytes."""
    try:
        schema = pa.ipc.open_stream(value).schema
    except pa.ArrowInvalid:
        try:
            return shape(orjson.loads(value))
        except orjson.JSONDecodeError:
            return "bytes"
    return {field.name: str(field.type) for field in schema}


def layouts(exchange):
    """{key: layout}; the slots' names hold a time, and all rows of a kind have one layout."""
    out = {}
    for key, value in sorted(state_of(exchange).items()):
        parts = [part.partition("/")[0] for part in key.split("|")]
        if parts[-1] == "rows":
            parts[2] = "<interval>/<slot>"
        elif parts[-1] == "memory":
            parts[2] = "<interval>"
        elif parts[-1] == "seen" and parts[2].isdigit():
            parts[2] = "<slot>"
        if parts[-1] != "seen":  # venues without ordered ids keep keys of one clock only
            parts = ["<clock>" if part in CLOCKS else part for part in parts]
        name, own = "|".join(parts), layout(value)
        assert out.setdefault(name, own) == own, f"{key} differs from others of its kind"
    return out


def partition_layout():
    writer = TopicWriter()
    writer.control(records.SESSION_START, START * NS)
    writer.control(records.PUNCTUATION, (START + 1) * NS)
    partition = PartitionAggregator(no_owner(), Rules(), 30 * NS)
    for topic in records.TICK_TOPICS:
        for record in writer.log[topic]:
            partition.feed(record)
    return shape(orjson.loads(partition.changes()["partition"]))


def whole_layout():
    return {
        "version": snapshot.VERSION,
        "partition": partition_layout(),
        "ids in order": layouts("binance-futures"),
        "ids without order": layouts("hyperliquid-perps"),
    }


def test_the_layout_is_the_golden_one():
    found, golden = whole_layout(), json.loads(GOLDEN.read_text())
    assert found == golden, (
        "the layout of the aggregation state changed: give snapshot.VERSION a new number, then "
        "run `python -m tests.aggregate.test_snapshot`"
    )


def test_every_dataset_and_partial_column_is_in_the_state():
    golden = json.loads(GOLDEN.read_text())["ids in order"]
    shard = ShardAggregator("binance-futures", Rules())
    for dataset in shard._datasets.values():
        rows = golden[f"<clock>|{dataset.kind}|<interval>/<slot>|rows"]
        for column in dataset.partial:
            assert f"{dataset.name}.{column}" in rows


@pytest.mark.parametrize("version", [0, snapshot.VERSION + 1, None])
def test_another_versions_state_is_refused_by_name(version):
    state = state_of("binance-futures")
    meta = orjson.loads(state["shard"]) | {"version": version}
    with pytest.raises(snapshot.StateVersionError, match=f"layout version {version}, .* reads"):
        ShardAggregator.restore({**state, "shard": orjson.dumps(meta)}, Rules())


def test_a_partition_of_another_version_is_refused_by_name():
    meta = {"version": 99, "read_to": {}, "sequence": {}, "shards": {}}
    with pytest.raises(snapshot.StateVersionError, match="99"):
        PartitionAggregator(no_owner(0, {"partition": orjson.dumps(meta)}), Rules(), 30 * NS)


def test_rows_come_back_as_they_were():
    rows_key = next(key for key in state_of("binance-futures") if key.endswith("rows"))
    value = state_of("binance-futures")[rows_key]
    assert snapshot.encode_rows(snapshot.decode_rows(value)) == value


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(whole_layout(), indent=1) + "\n")
