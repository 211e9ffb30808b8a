"""`perpflow` that kills itself with -9 at a named point, as a power cut there would.

    python -m tests.kafka.dying POINT NTH aggregate --config …

The points are put into this process only, around what the product calls there.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiokafka import AIOKafkaProducer

import perpflow
from ingest.log import kafka_owner
from ingest.log.kafka import KafkaLog
from ingest.log.kafka_producer import TransactionalProducer

COMMITTING_S = 0.002
"""From the request to end the transaction to the death: before its answer, mostly."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_commit(reached: Callable[[], None]) -> None:
    """Bars are made, nothing of them is sent."""
    commit = KafkaLog.commit

    async def dying(self: KafkaLog, owner: Any, records: Any = (), *more: Any) -> None:
        if records:
            reached()
        await commit(self, owner, records, *more)

    KafkaLog.commit = dying  # type: ignore[method-assign]


def after_produce(reached: Callable[[], None]) -> None:
    """Bars and state are acknowledged; the transaction is open."""
    commit = AIOKafkaProducer.commit_transaction

    async def dying(self: AIOKafkaProducer) -> None:
        reached()
        await commit(self)

    AIOKafkaProducer.commit_transaction = dying


def committing(reached: Callable[[], None]) -> None:
    """The request to commit is on its way."""
    commit = AIOKafkaProducer.commit_transaction

    async def dying(self: AIOKafkaProducer) -> None:
        asyncio.get_running_loop().call_later(COMMITTING_S, reached)
        await commit(self)

    AIOKafkaProducer.commit_transaction = dying


def after_commit(reached: Callable[[], None]) -> None:
    """The commit is answered; nothing else has happened."""
    commit = KafkaLog.commit

    async def dying(self: KafkaLog, *arguments: Any) -> None:
        await commit(self, *arguments)
        reached()

    KafkaLog.commit = dying  # type: ignore[method-assign]


def take_over(reached: Callable[[], None]) -> None:
    """The owner before is fenced; its state is not read yet."""
    opened = TransactionalProducer.open

    async def dying(*arguments: Any) -> TransactionalProducer:
        producer = await opened(*arguments)
        reached()
        return producer

    TransactionalProducer.open = dying  # type: ignore[assignment,method-assign]


def state_read(reached: Callable[[], None]) -> None:
    """In the middle of the state."""
    read = kafka_owner.read_state

    async def dying(*arguments: Any) -> AsyncIterator[Any]:
        async for found in read(*arguments):
            reached()
            yield found

    kafka_owner.read_state = dying  # type: ignore[assignment]


POINTS = {
    point.__name__: point
    for point in (before_commit, after_produce, committing, after_commit, take_over, state_read)
}


def main() -> None:
    name, nth, *sys.argv[1:] = sys.argv[1:]
    left = int(nth)

    def reached() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            die()

    POINTS[name](reached)
    perpflow.main()


if __name__ == "__main__":
    main()
