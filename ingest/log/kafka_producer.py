"""Producers: one idempotent one for appends, a transactional one for each owned partition."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaProducer, errors
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch
from aiokafka.producer.sender import Sender, SendProduceReqHandler
from aiokafka.structs import TopicPartition as KafkaPartition

from ingest.log import Fenced, LogError
from ingest.log.kafka_client import At
from ingest.log.kafka_options import REQUEST_TIMEOUT_MS, KafkaOptions
from ingest.log.kafka_reasons import bootstrapped, cause, patiently, seen, unreachable
from ingest.log.kafka_state import Raw

BATCH_BYTES = 1_000_000
"""Of one batch before compression; Kafka's own limit of a batch is 1,048,588 by default."""
COMPRESSION = "zstd"
"""On ticks and bars: a third, at 3 ms a MB. aiokafka's lz4 (level 9) takes 20, and gives 0.4."""
TRANSACTION_TIMEOUT_MS = 120_000
"""Longer than a broker's restart. A dead owner's transaction ends when a new one acquires."""
START_S = 60.0
"""For a producer's id, from brokers that answer. A transaction's coordinator may be moving."""
ABORT_S = 10.0
STOP_S = 2.0
"""For what is under way when a producer is closed: a daemon stops within 10 s."""
CANCEL_S = 0.5
RETRY_MS = 100

_NO_ANSWER = (errors.NodeNotReadyError, errors.RequestTimedOutError, errors.KafkaConnectionError)
_FENCED = (
    errors.ProducerFenced,
    errors.InvalidProducerEpoch,
    errors.InvalidProducerIdMapping,
    # The coordinator has aborted our transaction: it took longer than its timeout.
    errors.InvalidTxnState,
)


class Producer:
    """Appends outside of transactions; it connects at first use and anew after a failure.

    While brokers are away, or replicas not in sync, it waits and repeats without doubling (aiokafka
    never gives an idempotent batch up) and logs why, so what it raises is a refusal.
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
        what = f"append to {', '.join(sorted({topic for topic, _ in records}))}"
        try:
            return await patiently(
                _send(producer, records, self._order),
                what,
                lambda: _trouble(producer, self._options, records),
            )
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

    def __init__(self, options: KafkaOptions, producer: AIOKafkaProducer, owned: str) -> None:
        self._options = options
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
        return cls(options, producer, owned)

    async def commit(self, records: Mapping[At, Sequence[Raw]]) -> dict[At, int]:
        """Write the records in one transaction; returns the offset after each partition's last.

        Whatever it raises, this producer is `lost`: aiokafka can't go on after a batch that failed,
        and to begin anew here might fence a newer owner. `Fenced` if there is one; `LogError` with
        nothing written, or saying that it isn't known. While brokers are away it waits and logs
        why, until the coordinator has ended the transaction after `TRANSACTION_TIMEOUT_MS`.
        """
        return await patiently(
            self._commit(records),
            f"commit of {self._owned}",
            lambda: _trouble(self._producer, self._options, records),
        )

    async def _commit(self, records: Mapping[At, Sequence[Raw]]) -> dict[At, int]:
        if self.lost:
            raise Fenced(f"{self._owned} has been lost")
        self.lost = True
        try:
            await self._producer.begin_transaction()
            # It fails beside the batches, which tell of it too.
            self._producer._txn_manager.wait_for_transaction_end().add_done_callback(seen)
            ends = await _send(self._producer, records)
        except AssertionError as error:  # the client's sender has ended
            raise LogError(f"{self._owned}: the client has failed: acquire again") from error
        except errors.IllegalOperation as error:  # no KafkaError: a batch beside it failed first
            await self._abort(error)
            raise LogError(f"{self._owned}: the transaction has ended: acquire again") from error
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

    async def _abort(self, error: Exception) -> None:
        # What ended the transaction; a later batch fails only for there being none.
        end = self._producer._txn_manager.wait_for_transaction_end()
        accumulator = self._producer._message_accumulator
        for batch in chain(*accumulator._batches.values(), accumulator._pending_batches):
            batch._drain_waiter.add_done_callback(seen)  # nobody waits for it
        self._raise_if_fenced((end.exception() if end and end.done() else None) or error)
        with contextlib.suppress(errors.KafkaError, TimeoutError):
            await asyncio.wait_for(self._producer.abort_transaction(), ABORT_S)

    def _raise_if_fenced(self, error: BaseException) -> None:
        # The sender's task wraps what it doesn't expect.
        if isinstance(error, _FENCED) or isinstance(error.__cause__, _FENCED):
            raise Fenced(f"{self._owned} was taken by a newer owner") from error

    async def close(self) -> None:
        await _stopped(self._producer)


class _Handler(SendProduceReqHandler):  # type: ignore[misc]
    trouble: errors.KafkaError | None = None

    def _can_retry(self, error: errors.KafkaError, batch: MessageBatch) -> bool:
        self.trouble = error
        return bool(super()._can_retry(error, batch))


class _Sender(Sender):  # type: ignore[misc]
    """aiokafka's, that also keeps why it repeats: there is no other way to know but its log."""

    trouble: errors.KafkaError | None = None
    """The broker's answer to the last request, if it was a refusal."""

    async def _send_produce_req(
        self, node_id: int, batches: dict[KafkaPartition, MessageBatch]
    ) -> None:
        handler = _Handler(self, batches)
        await handler.do(node_id)
        self.trouble = handler.trouble
        self._in_flight.remove(node_id)
        self._muted_partitions.difference_update(batches)


async def _started(options: KafkaOptions, **more: Any) -> AIOKafkaProducer:
    """Raises `LogError` if brokers can't be reached, or give no producer id in `START_S`."""
    producer = AIOKafkaProducer(
        **options.arguments(),
        acks="all",
        enable_idempotence=True,
        compression_type=COMPRESSION,
        max_batch_size=BATCH_BYTES,
        **more,
    )
    producer._sender = _Sender(
        producer.client,
        acks=-1,
        txn_manager=producer._txn_manager,
        message_accumulator=producer._message_accumulator,
        retry_backoff_ms=RETRY_MS,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    try:
        async with asyncio.timeout(START_S):
            await bootstrapped(producer.start(), options)
    except TimeoutError as error:
        await producer.stop()
        reason = await unreachable(options) or "the transaction coordinator may not be available"
        raise LogError(
            f"Kafka {options.servers}: no producer id within {START_S:.0f} s: {reason}"
        ) from error
    except BaseException:
        await producer.stop()
        raise
    return producer


async def _trouble(
    producer: AIOKafkaProducer, options: KafkaOptions, records: Iterable[At]
) -> str | None:
    """Why those records are not acknowledged; None if nothing seems wrong."""
    known = producer.client.cluster.partitions_for_topic
    if gone := sorted({topic for topic, _ in records if not known(topic)}):
        return f"no topic {', '.join(gone)}, or it may not be described"
    refusal = producer._sender.trouble
    if refusal is not None and not isinstance(refusal, _NO_ANSWER):
        return cause(refusal)
    return await unreachable(options)


async def _stopped(producer: AIOKafkaProducer) -> None:
    """Stop it; what is still under way gets some seconds."""
    try:
        async with asyncio.timeout(STOP_S):
            await producer.flush()
            await producer.stop()  # waits for a commit under way, for ever without a broker
    except (TimeoutError, errors.KafkaError):
        producer._closed = True  # its `stop` would wait on
        await producer.client.close()
        with contextlib.suppress(TimeoutError, errors.KafkaError):
            await asyncio.wait_for(producer._sender.close(), CANCEL_S)
    except asyncio.CancelledError:
        producer._closed = True
        await producer.client.close()
        raise


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
