"""What has to be put right in aiokafka before it is used; importing this does it."""

import logging
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

# What it would say, and repeats ten times a second while brokers are away, `kafka_reasons` says.
# And at DEBUG it writes PLAIN passwords.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

_send = AIOKafkaConnection.send


def _checked_send(self: AIOKafkaConnection, *arguments: Any, **named: Any) -> Any:
    try:
        return _send(self, *arguments, **named)
    except RuntimeError as error:
        # uvloop's, of a transport that was closed a moment ago; asyncio's own says nothing. It
        # would end the task that keeps a client's metadata, and all that waits for leaders.
        self.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken") from error


AIOKafkaConnection.send = _checked_send
