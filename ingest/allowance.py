"""How many instruments a collector may have: what a venue's limit of subscriptions leaves it."""

from collections.abc import Collection, Sequence

import structlog

from ingest.instruments import Instrument
from ingest.limits import Limiter, limits

PER_INSTRUMENT = 2
"""Subscriptions: trades and quotes."""

_log = structlog.get_logger(__name__)


def refuse_too_many(exchange: str, instruments: int, processes: int) -> None:
    """Raises ValueError where the venue would not allow so many even to this process alone."""
    most = limits(exchange, processes).subscriptions
    needed = PER_INSTRUMENT * instruments
    if most is not None and needed > most:
        raise ValueError(
            f"{exchange} allows {most} subscriptions, {instruments} instruments need {needed}: "
            "choose fewer"
        )


class Allowance:
    """Of one collector beside the others of its venue in this process."""

    def __init__(self, exchange: str, limiter: Limiter) -> None:
        self._exchange = exchange
        self._limiter = limiter
        self._left_out: set[str] = set()

    def take(
        self, instruments: Sequence[Instrument], already: Collection[str] = ()
    ) -> list[Instrument]:
        """Those that are collected already, by native id, and as many new ones as there is room
        for; the others are told when they are others than the last time."""
        known = [i for i in instruments if i.native in already]
        new = [i for i in instruments if i.native not in already]
        left = self._limiter.subscriptions_left(self) // PER_INSTRUMENT
        room = max(left - len(known), 0)
        left_out = {i.native for i in new[room:]}
        if left_out - self._left_out:
            _log.error(
                "the venue allows no more subscriptions, instruments are left out",
                exchange=self._exchange,
                instruments=len(left_out),
                first=", ".join(sorted(left_out)[:10]),
            )
        self._left_out = left_out
        taken = [*known, *new[:room]]
        self._limiter.subscribe(self, PER_INSTRUMENT * len(taken))
        return taken

    def end(self) -> None:
        """Leave it all to the others."""
        self._limiter.subscribe(self, 0)
