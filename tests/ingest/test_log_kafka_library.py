"""What `kafka_library` puts right in aiokafka, on a real broker."""

import asyncio

import pytest
import uvloop
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

import ingest.log.kafka_library  # noqa: F401
from tests.kafka.broker import Broker

pytestmark = pytest.mark.xdist_group("kafka")


def test_a_request_on_a_closed_connection_is_an_error_that_clients_expect(kafka: Broker) -> None:
    async def ask() -> None:
        host, port = kafka.servers.split(":")
        connection = await create_conn(host, int(port))
        connection._writer.transport.abort()
        with pytest.raises(KafkaConnectionError):
            await connection.send(MetadataRequest([]))
        assert not connection.connected()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask())
