"""What is on the log, broken: tick batches, control records, headers, the Kafka state topic."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from ingest.log import LogError
from ingest.log.kafka_state import encode as encode_state
from ingest.log.kafka_state import fold, group_of_offsets, read_offsets
from ingest.records import BadRecord, Coverage, GapRecord, Source, integer
from ingest.ticks import MalformedBatch, Quotes, Trades, decode, encode
from tests.ingest.fuzzing import EXAMPLES, changed, fuzz, readable

TRADES = Trades.from_columns(
    ["BTC", "ETH"],
    [
        *([0, 1], [1, 2], [3, 4], [5, 6], [1, 1], [1, -1]),
        *([1.0, 2.0], [1.0, 2.0], [1.0, 4.0], [0, 0], [0, 1], [0, 1]),
    ],
)
QUOTES = Quotes.from_columns(
    ["BTC"], [[0], [1], [2], [3], [1.0], [2.0], [float("nan")], [float("nan")], [0], [0]]
)
GAP = GapRecord(
    *("okx-perps", "perpetual-BTC-USDT:USDT", "ids", 1, 2, 2, 0, "open", "sequence", "", 1, 2, 3)
)
COVERAGE = Coverage(["perpetual-BTC-USDT:USDT"], 1, 2)
HEADERS = Source("okx-perps", "okx-perps", "c1", "1").headers("trades", 7)


@pytest.mark.parametrize("batch", [TRADES, QUOTES])
@EXAMPLES
def test_tick_batches(batch: Trades | Quotes, examples: int) -> None:
    def check(value: bytes) -> None:
        tracemalloc.start()
        before = pa.total_allocated_bytes()
        try:
            found = decode(type(batch), value)
        except MalformedBatch as error:
            readable(error)
        else:
            assert {len(column) for column in found.columns()} == {len(found)}
            assert [c.dtype for c in found.columns()] == [c.dtype for c in batch.columns()]
            assert len(found) == 0 or 0 <= found.code.min() <= found.code.max() < len(found.symbols)
            assert len(encode(found)) > 0
        finally:
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert most < 4 << 20
            assert pa.total_allocated_bytes() - before < 1 << 20

    fuzz(examples, changed([encode(batch), encode(batch.take(slice(0, 0)))]), check)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_what_could_be_of_any_size_once_inflated_is_refused(codec: str) -> None:
    many = Trades(["BTC"], *(np.zeros(1 << 18, c.dtype) for c in TRADES.columns()))
    batch = pa.ipc.open_stream(encode(many)).read_next_batch()
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write(batch)
    value = sink.getvalue().to_pybytes()
    assert len(value) < 1 << 18
    before = pa.total_allocated_bytes()
    with pytest.raises(MalformedBatch, match="compressed"):
        decode(Trades, value)
    assert pa.total_allocated_bytes() == before


def test_nulls_are_refused() -> None:
    table = pa.ipc.open_stream(encode(TRADES)).read_all()
    place = table.schema.get_field_index("id")
    table = table.set_column(place, table.schema.field("id"), pa.array([None, 1], pa.int64()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(MalformedBatch, match="nulls"):
        decode(Trades, sink.getvalue().to_pybytes())


@pytest.mark.parametrize("record", [GAP, COVERAGE, replace(GAP, missing=None, kind="fills")])
@EXAMPLES
def test_control_records(record: GapRecord | Coverage, examples: int) -> None:
    def check(value: bytes) -> None:
        try:
            found = type(record).decode(value)
        except BadRecord as error:
            readable(error)
        else:
            assert type(record).decode(found.encode()) == found

    fuzz(examples, changed([record.encode()]), check)


@EXAMPLES
def test_headers(examples: int) -> None:
    names = st.sampled_from(sorted(HEADERS))
    texts = st.text(max_size=30) | st.sampled_from(["-1", "9" * 5_000, "1_0", "²", "1.5", ""])

    def check(headers: dict[str, str]) -> None:
        try:
            assert Source.of(headers).exchange == headers["exchange"]
            assert integer(headers, "seq") >= 0
        except BadRecord as error:
            readable(error)

    fuzz(examples, st.dictionaries(names, texts) | texts.map(lambda t: HEADERS | {"seq": t}), check)


@EXAMPLES
def test_the_state_topic(examples: int) -> None:
    written = encode_state("g", {"k": b"v" * 10, "gone": None}, {"gone": 2}, {("t", 1): 7})
    keys = changed([key for key, _, _ in written if key])
    values = changed([value for _, value, _ in written if value])
    counts = st.sampled_from([b"1", b"2", b"0", b"9" * 30, b"x", b"-1", b"", b"999999999"])

    def check(records: list[tuple[bytes, bytes | None, bytes]]) -> None:
        for key, value, count in records:
            for read in (
                lambda key=key: group_of_offsets(key),
                lambda value=value: read_offsets(value),
                lambda raw=(key, value, [("parts", count)]): fold([*written, raw], "g"),
            ):
                try:
                    read()
                except LogError as error:
                    readable(error)

    records = st.tuples(keys, st.none() | values, counts)
    fuzz(examples, st.lists(records, max_size=3), check)
