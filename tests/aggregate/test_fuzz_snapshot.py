"""Aggregation state on the log, broken: it is refused by name, never misread into memory."""

import numpy as np
import orjson

from aggregate import snapshot
from aggregate.groups import Rows
from tests.ingest.fuzzing import EXAMPLES, changed, fuzz, readable

ROWS = Rows(
    np.array([0, 1]), np.array([1_700_000_000, 1_700_000_001]), {"ohlcv": {"n": np.ones(2)}}
)
META = orjson.dumps({"version": snapshot.VERSION, "exchange": "okx-perps", "symbols": ["A"]})


@EXAMPLES
def test_rows(examples: int) -> None:
    def check(value: bytes) -> None:
        try:
            rows = snapshot.decode_rows(value)
        except snapshot.StateVersionError as error:
            readable(error)
        else:
            assert len(rows.code) == len(rows.start)
            assert all(len(v) == len(rows.code) for p in rows.parts.values() for v in p.values())

    fuzz(examples, changed([snapshot.encode_rows(ROWS)]), check)


@EXAMPLES
def test_meta(examples: int) -> None:
    def check(value: bytes) -> None:
        try:
            assert snapshot.read_meta(value)["version"] == snapshot.VERSION
        except snapshot.StateVersionError as error:
            readable(error)

    fuzz(examples, changed([META]), check)
