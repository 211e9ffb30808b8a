"""Producers: one idempotent one for appends, a transactional one for each owned partition."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer, errors
from aiokafka.producer.message_accumulator import BatchBuilder

from ingest.log import Fenced, LogError
from ingest.log.kafka_client import At, cause
from ingest.log.kafka_options import KafkaOptions
from ingest.log.kafka_state import Raw

BATCH_BYTES = 1_000_000
"""Of one batch before compression; Kafka's own limit of a batch is 1,048,588 by default."""
COMPRESSION = "lz4"
TRANSACTION_TIMEOUT_MS = 120_000
"""Longer than a broker's restart. A dead owner's transaction ends when a new one acquires."""
STOP_S = 3.0
"""A daemon is gone within 10 s."""

_FENCED = (
    errors.ProducerFenced,
    errors.InvalidProducerEpoch,
    errors.InvalidProducerIdMapping,
    # The coordinator has aborted our transaction: it took longer than its timeout.
    errors.InvalidTxnState,
)


class Producer:
    """Appends outside of transactions; it connects at first use and anew after a failure.

    While brokers are away it waits and repeats without doubling (aiokafka never gives an
    idempotent batch up), so what it raises is a refusal.
    """

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._order: defaultdict[At, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def send(self, records: Mapping[At, Sequence[Raw]]) -> dict[At, int]:
        """Append; returns the offset after the last record of each partition."""
        async with self._connecting:
            if self._producer is None:
                self._producer = await _started(self._options)
        producer = self._producer
        try:
            return await _send(producer, records, self._order)
        except errors.KafkaError:
            # A sequence number is missing now: this producer could write no more there.
            if self._producer is producer:
                self._producer = None
                await _stopped(producer)
            raise

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stopped(producer)


class TransactionalProducer:
    """The one writer under a transactional id, until another opens it."""

    def __init__(self, producer: AIOKafkaProducer, owned: str) -> None:
        self._producer = producer
        self._owned = owned
        self.lost = False
        """Fenced, or not known how the last commit ended: of no more use."""
        manager = producer._txn_manager
        # The broker counts the epoch up at every opening, and gives a new id before it overflows.
        self.epoch: int = (manager.producer_id << 16) + manager.producer_epoch

    @classmethod
    async def open(
        cls, options: KafkaOptions, transactional_id: str, owned: str
    ) -> "TransactionalProducer":
        """Fence the producer before, end its transaction, and become the writer.

        `owned`: what is written under that id, for messages.
        """
        producer = await _started(
            options,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        )
        return cls(producer, owned)

    async def commit(self, records: Mapping[At, Sequence[Raw]]) -> dict[At, int]:
        """Write the records in one transaction; returns the offset after each partition's last.

        Whatever it raises, this producer is `lost`: aiokafka can't go on after a batch that failed,
        and to begin anew here might fence a newer owner. `Fenced` if there is one; `LogError` with
        nothing written, or saying that it isn't known.
        """
        if self.lost:
            raise Fenced(f"{self._owned} has been lost")
        self.lost = True
        try:
            await self._producer.begin_transaction()
            ends = await _send(self._producer, records)
        except AssertionError as error:  # the client's sender has ended
            raise LogError(f"{self._owned}: the client has failed: acquire again") from error
        except errors.KafkaError as error:
            await self._abort(error)
            raise
        try:
            await self._producer.commit_transaction()
        except errors.KafkaError as error:
            self._raise_if_fenced(error)
            raise LogError(
                f"{self._owned}: not known whether the commit happened ({cause(error)}):"
                " acquire again"
            ) from error
        self.lost = False
        return ends

    async def _abort(self, error: errors.KafkaError) -> None:
        # What ended the transaction; a later batch fails only for there being none.
        end = self._producer._txn_manager.wait_for_transaction_end()
        self._raise_if_fenced((end.exception() if end and end.done() else None) or error)
        with contextlib.suppress(errors.KafkaError, TimeoutError):
            await asyncio.wait_for(self._producer.abort_transaction(), STOP_S)

    def _raise_if_fenced(self, error: BaseException) -> None:
        # The sender's task wraps what it doesn't expect.
        if isinstance(error, _FENCED) or isinstance(error.__cause__, _FENCED):
            raise Fenced(f"{self._owned} was taken by a newer owner") from error

    async def close(self) -> None:
        await _stopped(self._producer)


async def _started(options: KafkaOptions, **more: Any) -> AIOKafkaProducer:
    producer = AIOKafkaProducer(
        **options.arguments(),
        acks="all",
        enable_idempotence=True,
        compression_type=COMPRESSION,
        max_batch_size=BATCH_BYTES,
        **more,
    )
    try:
        await producer.start()
    except BaseException:
        await producer.stop()
        raise
    return producer


async def _stopped(producer: AIOKafkaProducer) -> None:
    """Stop it; what is still under way gets some seconds."""
    try:
        await asyncio.wait_for(producer.stop(), STOP_S)
    except (TimeoutError, errors.KafkaError):
        await producer.client.close()


async def _send(
    producer: AIOKafkaProducer,
    records: Mapping[At, Sequence[Raw]],
    order: Mapping[At, asyncio.Lock] | None = None,
) -> dict[At, int]:
    """Partitions side by side, the batches of one after another; raises the first failure.

    Batch after batch, since a later one must not be there without the ones before it.
    """

    async def one(at: At, raws: Sequence[Raw]) -> int:
        end = 0
        async with order[at] if order is not None else contextlib.nullcontext():
            for batch in _batches(producer, raws):
                sent = await producer.send_batch(batch, at[0], partition=at[1])
                end = (await sent).offset + batch.record_count()
        return end

    done = await asyncio.gather(
        *(one(at, raws) for at, raws in records.items()), return_exceptions=True
    )
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return dict(zip(records, (end for end in done if isinstance(end, int)), strict=True))


def _batches(producer: AIOKafkaProducer, raws: Sequence[Raw]) -> "list[BatchBuilder]":
    batches = [producer.create_batch()]
    for key, value, headers in raws:
        record = {"timestamp": None, "key": key, "value": value, "headers": headers}
        if batches[-1].append(**record) is None:
            batches.append(producer.create_batch())
            batches[-1].append(**record)
    return batches
