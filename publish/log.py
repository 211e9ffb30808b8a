"""Which log the settings name, and opening it."""

from ingest.log import Log
from ingest.log.kafka_options import KafkaOptions
from ingest.log.membership import Fixed, Membership
from ingest.log.sqlite import SqliteLog
from ingest.records import TRADES_TOPIC
from publish.settings import LogSettings


def open_log(settings: LogSettings) -> Log:
    """The log: Kafka where `[log.kafka]` is set, else the embedded one. The caller closes it."""
    if settings.kafka is None:
        return SqliteLog(settings.path)
    from ingest.log.kafka import KafkaLog  # takes a third of a second to import

    return KafkaLog(kafka_options(settings))


def membership(settings: LogSettings, group: str) -> Membership:
    """Who aggregates which partitions: on Kafka a group shares them out, else one process has all.

    Not joined yet; who joins leaves it.
    """
    if settings.kafka is None:
        return Fixed(range(settings.partitions))
    from ingest.log.kafka_group import KafkaMembership

    session_s = settings.kafka.session / 1e9
    return KafkaMembership(kafka_options(settings), group, TRADES_TOPIC, session_s=session_s)


def kafka_options(settings: LogSettings) -> KafkaOptions:
    """Of settings that have `[log.kafka]`."""
    kafka = settings.kafka
    assert kafka is not None
    return KafkaOptions(
        servers=kafka.servers,
        prefix=kafka.prefix,
        replication=kafka.replication,
        retention_hours=settings.retention_hours,
        tls=kafka.tls,
        ca_file=None if kafka.ca_file is None else str(kafka.ca_file),
        sasl=kafka.sasl,
        username=kafka.username,
        password=None if kafka.password is None else kafka.password.get_secret_value(),
    )


def place(settings: LogSettings) -> str:
    """Where the log is, for messages."""
    kafka = settings.kafka
    return str(settings.path) if kafka is None else f"Kafka {kafka.servers} {kafka.prefix}".strip()
