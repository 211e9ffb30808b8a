"""The state topic is read whole, or refused."""

import asyncio
from collections.abc import Mapping

import pytest

from ingest.log.kafka_client import At, Fetched
from ingest.log.kafka_owner import read_state
from ingest.log.kafka_state import BadState

AT = ("state", 0)
END = 3


class _Beginning:
    """A partition of the state topic that begins at an offset above 0, as DeleteRecords leaves."""

    async def fetch(self, wanted: Mapping[At, int], max_bytes: int) -> dict[At, Fetched]:
        return {at: Fetched([], offset, out_of_range=True) for at, offset in wanted.items()}


async def test_a_state_whose_beginning_was_removed_is_refused_by_name() -> None:
    async with asyncio.timeout(5):
        with pytest.raises(BadState, match="state/0 has no offset 0"):
            [found async for found in read_state(_Beginning(), AT, 0, END)]  # type: ignore[arg-type]
