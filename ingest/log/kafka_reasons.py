"""Why Kafka doesn't take or give what is asked, in one line that says what to look at.

aiokafka's clients log the reason for which they can't connect and raise another, without it. So the
connection is tried once more, by itself, and its failure put in words.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import structlog
from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.protocol.metadata import MetadataRequest

import ingest.log.kafka_library  # noqa: F401
from ingest.log import LogError
from ingest.log.kafka_options import KafkaOptions

TRY_S = 5.0
"""How long one broker has to answer when the reason is looked for."""
SAY_S = 10.0
"""What waits this long for Kafka says so, and why, and again each time it has passed."""

T = TypeVar("T")
_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def explained(where: str) -> AsyncIterator[None]:
    """aiokafka's errors as `LogError`s of one line that says where and why."""
    try:
        yield
    except errors.KafkaError as error:
        raise LogError(f"{where}: {cause(error)}") from error
    except (OSError, TimeoutError) as error:
        raise LogError(f"{where}: {_of_the_connection(error)}") from error


def cause(error: errors.KafkaError) -> str:
    """The reason in words: the broker's description where the error brings none itself."""
    detail = "; ".join(str(item) for item in error.args if item)
    name = type(error).__name__.removesuffix("Error")
    return f"{name}: {detail or getattr(error, 'description', None) or error}"


async def bootstrapped(connecting: Awaitable[None], options: KafkaOptions) -> None:
    """Await a client's first connection. Raises `LogError` with the reason if there is none."""
    try:
        await connecting
    except errors.KafkaConnectionError as error:
        reason = await unreachable(options) or cause(error)
        raise LogError(f"Kafka {options.servers}: {reason}") from error


async def unreachable(options: KafkaOptions) -> str | None:
    """Why the brokers can't be used, those that they advertise too; None if one can.

    Takes `TRY_S` a broker at most. Says nothing of the password.
    """
    reasons = []
    for host, port, _ in collect_hosts(options.servers):
        try:
            connection = await _connect(options, host, port)
        except (errors.KafkaError, OSError, TimeoutError) as error:
            reasons.append(_of_the_connection(error))
            continue
        try:
            async with asyncio.timeout(TRY_S):
                brokers = (await connection.send(MetadataRequest([]))).brokers
        except (errors.KafkaError, OSError, TimeoutError) as error:
            reasons.append(_of_the_connection(error))
            continue
        finally:
            connection.close()
        advertised = [await _unreachable_by_name(options, *broker[1:3]) for broker in brokers]
        return None if None in advertised else advertised[0]
    return "; ".join(dict.fromkeys(reasons))


async def _unreachable_by_name(options: KafkaOptions, host: str, port: int) -> str | None:
    """Why a broker can't be reached under the name by which the cluster knows it."""
    try:
        connection = await _connect(options, host, port)
    except (errors.KafkaError, OSError, TimeoutError) as error:
        return f"it answers, but is advertised as {host}:{port}: {_of_the_connection(error)}"
    connection.close()
    return None


async def _connect(options: KafkaOptions, host: str, port: int) -> AIOKafkaConnection:
    arguments = options.arguments() | {"request_timeout_ms": round(TRY_S * 1000)}
    del arguments["bootstrap_servers"]
    async with asyncio.timeout(TRY_S):
        return await create_conn(host, port, **arguments)


def _of_the_connection(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}; see log.kafka.ca_file"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason}): is this a port with TLS?"
    if isinstance(error, errors.SaslAuthenticationFailed):
        return f"log.kafka.username or password refused: {error.args[0]}"
    if isinstance(error, errors.IllegalSaslStateError):
        return "this port takes no SASL: leave log.kafka.sasl out, or use another port"
    if isinstance(error, errors.KafkaConnectionError):
        return "the connection was closed: does this port want log.kafka.tls or sasl?"
    if isinstance(error, errors.KafkaError):
        return cause(error)
    if isinstance(error, ConnectionResetError | ConnectionAbortedError):
        return "the connection was reset: is log.kafka.tls right for this port?"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there"
    if isinstance(error, TimeoutError) and not error.args:
        return f"no answer within {TRY_S:.0f} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


async def patiently(
    work: Awaitable[T], what: str, reason: Callable[[], Awaitable[str | None]]
) -> T:
    """Await the work; while it takes long, log every `SAY_S` what is waited for and why."""
    task = asyncio.ensure_future(work)
    waited = 0.0
    try:
        while not (await asyncio.wait({task}, timeout=SAY_S))[0]:
            waited += SAY_S
            say(what, waited, await reason())
        return task.result()
    finally:
        task.cancel()


def seen(work: "asyncio.Future[Any]") -> None:
    """Take note of how it ended, where nobody may be left to: a cancelled commit, a client's own
    futures. asyncio complains of a failure that nothing has looked at."""
    if not work.cancelled():
        work.exception()


def say(what: str, waited_s: float, reason: str | None) -> None:
    """Log that something waits for Kafka, and why if that is known."""
    _log.warning("waiting for Kafka", what=what, seconds=round(waited_s), reason=reason)
