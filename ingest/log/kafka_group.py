"""Membership of a consumer group: the broker keeps the members, one of them shares out.

aiokafka's own consumer isn't used for it: it gives every partition up at each rebalance, forgets
the generation of what it had, fetches records nobody asked for, leaves after five minutes without
a fetch, and stops for good at an error until somebody fetches. The requests are Kafka's "classic"
group protocol: JoinGroup (everyone says what it has, the leader is told), SyncGroup (the leader's
shares are handed out), Heartbeat (also brings the news that members come or go), LeaveGroup.

Work goes on during a rebalance. What a member loses the next owner takes by fencing it
(`Log.acquire`), so nothing has to be given up beforehand. Metadata and shares are written as
consumers write them, so that `kafka-consumer-groups --describe` shows who has what.
"""

import asyncio
import contextlib
import math
import time
from typing import Any

import orjson
import structlog
from aiokafka import errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)
from aiokafka.protocol.group import (
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    SyncGroupRequest,
)

from ingest.log import LogError
from ingest.log.kafka_client import BACKOFF_S
from ingest.log.kafka_options import REQUEST_TIMEOUT_MS, KafkaOptions
from ingest.log.kafka_reasons import SAY_S, bootstrapped, cause, explained, say
from ingest.log.membership import Membership
from ingest.log.sharing import Claim, share_out

SESSION_S = 10.0
HEARTBEATS = 8
"""In a session: so many have to be missed, one after another, to be given up for dead."""
MAX_POLL_S = 300.0
"""A process that beats but has not asked for its share for so long is stuck, and leaves."""
LEAVE_S = 1.0
_CONSUMER = "consumer"
_STRATEGY = "perpflow-sticky"
_EXPELLED = (errors.UnknownMemberIdError, errors.IllegalGenerationError)

_log = structlog.get_logger(__name__)


class KafkaMembership(Membership):
    """A member of `group` (with the options' prefix), which shares out the partitions of `topic`.

    `session_s`: after so long without a sign of life a member's share goes to the others. The
    broker's `group.min.session.timeout.ms` (6 s by default) has to allow it.
    """

    def __init__(
        self, options: KafkaOptions, group: str, topic: str, *, session_s: float = SESSION_S
    ) -> None:
        self._options = options
        self._group = options.prefix + group
        self._topic = options.prefix + topic
        self._session_s = session_s
        self._client: AIOKafkaClient | None = None
        self._running: asyncio.Task[None] | None = None
        self._coordinator: int | None = None
        self._count = 0
        self._member = ""
        self._claim = Claim(-1, frozenset())
        self._share: frozenset[int] = frozenset()
        self._fenced: dict[int, float] = {}
        self._confirmed = -math.inf  # when the group was last asked and said that the share holds
        self._asked = time.monotonic()

    @property
    def _name(self) -> str:
        return f"Kafka {self._options.servers}: group {self._group}"

    async def join(self) -> None:
        # Joining is answered when all members have come back, which may take a session.
        timeout_ms = max(REQUEST_TIMEOUT_MS, round(2000 * self._session_s))
        arguments = self._options.arguments() | {"request_timeout_ms": timeout_ms}
        self._client = AIOKafkaClient(**arguments)
        async with explained(self._name):
            await bootstrapped(self._client.bootstrap(), self._options)
            metadata = await self._client.fetch_all_metadata()
        self._count = len(metadata.partitions_for_topic(self._topic) or ())
        if not self._count:
            raise LogError(f"{self._name}: no topic {self._topic!r}")
        self._asked = time.monotonic()
        self._running = asyncio.create_task(self._run(), name="group membership")

    def share(self) -> frozenset[int]:
        self._asked = time.monotonic()
        if self._running is not None and self._running.done():
            self._running.result()
        # A heartbeat after the fencing that was answered well: so it was an owner of the past.
        away = {p for p, since in self._fenced.items() if since >= self._confirmed}
        return self._share - away

    def fenced(self, partition: int) -> None:
        self._fenced[partition] = time.monotonic()

    @property
    def settled(self) -> bool:
        return self._confirmed > -math.inf

    @property
    def over(self) -> bool:
        return False

    async def leave(self) -> None:
        self._share = frozenset()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        if self._client is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._part(), LEAVE_S)
            client, self._client = self._client, None
            await client.close()

    async def _run(self) -> None:
        while True:
            try:
                await self._rejoin()
                await self._stay()
            except _EXPELLED as error:
                _log.warning("no longer in the group", group=self._group, cause=cause(error))
                self._expel()
                if isinstance(error, errors.UnknownMemberIdError):
                    self._member = ""
            except (errors.RebalanceInProgressError, errors.MemberIdRequired):
                continue
            except errors.InvalidSessionTimeoutError as error:
                raise LogError(
                    f"{self._name}: the broker forbids log.kafka.session = {self._session_s:g}s:"
                    " see its group.min.session.timeout.ms and group.max.session.timeout.ms"
                ) from error
            except errors.KafkaError as error:
                self._expel()
                raise LogError(f"{self._name}: {cause(error)}") from error

    async def _rejoin(self) -> None:
        """Say what we have, take what we get. Meanwhile the old share is worked on."""
        had = {"generation": self._claim.generation, "partitions": sorted(self._claim.partitions)}
        metadata = ConsumerProtocolMemberMetadata(0, [self._topic], orjson.dumps(had))
        session_ms = round(self._session_s * 1000)
        joined = await self._ask(
            JoinGroupRequest(
                self._group,
                session_ms,
                session_ms,
                self._member,
                None,
                _CONSUMER,
                [(_STRATEGY, metadata.encode())],
            )
        )
        leads = joined.leader_id == joined.member_id
        shares = self._shares(joined.members) if leads else []
        generation, asked = joined.generation_id, time.monotonic()
        synced = await self._ask(
            SyncGroupRequest(self._group, generation, self._member, None, shares)
        )
        given = ConsumerProtocolMemberAssignment.decode(synced.member_assignment)
        self._share = frozenset(at.partition for at in given.partitions())
        self._claim = Claim(generation, self._share)
        self._confirmed = asked
        _log.info(
            "share of the group",
            group=self._group,
            generation=generation,
            partitions=sorted(self._share),
        )

    def _shares(self, members: list[Any]) -> list[tuple[str, bytes]]:
        claims = {}
        for member, *_, raw in members:
            had = orjson.loads(ConsumerProtocolMemberMetadata.decode(raw).user_data)
            claims[member] = Claim(had["generation"], had["partitions"])
        return [
            (member, ConsumerProtocolMemberAssignment(0, [(self._topic, share)], b"").encode())
            for member, share in share_out(self._count, claims).items()
        ]

    async def _stay(self) -> None:
        """Give signs of life until something changes, which is raised, or the process is stuck."""
        beat_s = self._session_s / HEARTBEATS
        while True:
            await asyncio.sleep(beat_s)
            silent_s = time.monotonic() - self._asked
            if silent_s > MAX_POLL_S:
                break
            asked = time.monotonic()
            await self._ask(HeartbeatRequest(self._group, self._claim.generation, self._member))
            self._confirmed = asked
        _log.error("stuck: leaving the group", group=self._group, seconds=round(silent_s))
        await self._part()
        self._expel()
        self._member = ""
        while time.monotonic() - self._asked > beat_s:  # noqa: ASYNC110
            await asyncio.sleep(beat_s)

    def _expel(self) -> None:
        """The share is others' now; the claim stays, should nobody have taken it."""
        self._share = frozenset()

    async def _part(self) -> None:
        if self._client is None or self._coordinator is None or not self._member:
            return
        with contextlib.suppress(errors.KafkaError, OSError):
            # Another connection: on the group's a JoinGroup may be waiting for its answer.
            await self._client.send(self._coordinator, LeaveGroupRequest(self._group, self._member))

    async def _ask(self, request: Any) -> Any:
        """The coordinator's answer; while there is none it is looked for, and asked again."""
        client = self._client
        assert client is not None
        begun = said = time.monotonic()
        while True:
            try:
                if self._coordinator is None:
                    self._coordinator = await client.coordinator_lookup(
                        CoordinationType.GROUP, self._group
                    )
                answer = await client.send(
                    self._coordinator, request, group=ConnectionGroup.COORDINATION
                )
                # A first JoinGroup is refused with the id to join by (KIP-394).
                self._member = getattr(answer, "member_id", None) or self._member
                if answer.error_code:
                    raise errors.for_code(answer.error_code)()
                return answer
            except errors.KafkaError as error:
                if not error.retriable:
                    raise
                self._coordinator = None
                if time.monotonic() > said + SAY_S:
                    said = time.monotonic()
                    say(f"group {self._group}", said - begun, cause(error))
            await asyncio.sleep(BACKOFF_S)
            await client.force_metadata_update()
