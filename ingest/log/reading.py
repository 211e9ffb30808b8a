"""Reading a log on, over what retention removed."""

from ingest.log import Log, OffsetTrimmed, Record


async def read_kept(
    log: Log, topic: str, partition: int, offset: int, *, max_bytes: int = 8 << 20
) -> tuple[list[Record], int]:
    """What is next from `offset` on, and how many records before it retention removed.

    Raises `LogError`.
    """
    start = offset
    while True:
        try:
            return await log.read(topic, partition, start, max_bytes=max_bytes), start - offset
        except OffsetTrimmed:
            start, _ = await log.bounds(topic, partition)
