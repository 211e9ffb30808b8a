"""What a user reads when the system killed one of several processes."""

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from ingest.errors import UserError


@contextmanager
def told_of_killed(what: str, *, after: str = "") -> Iterator[None]:
    """`what` its processes do, and what holds `after` one was killed. Raises `UserError` then."""
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that {what} was killed, perhaps for want of memory: "
            f"use fewer processes (--processes 1){after}"
        ) from error
