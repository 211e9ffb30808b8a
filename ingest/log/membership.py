"""Which partitions are this process's: its share of a group.

A share divides the work; who may write is decided by `Log.acquire` alone, which fences. So a share
that is out of date may cost time, but loses and repeats nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection


class Membership(ABC):
    """One process in a group that shares out partitions 0 to n - 1."""

    @abstractmethod
    async def join(self) -> None:
        """Become a member; a share comes some time later. Raises `LogError` if it can't."""

    @abstractmethod
    def share(self) -> frozenset[int]:
        """The partitions that are this process's now.

        To be asked again and again: a member that doesn't for minutes is taken for stuck, and the
        others get its share. Raises `LogError` once membership has failed for good.
        """

    @abstractmethod
    def fenced(self, partition: int) -> None:
        """Another owner has taken it: no longer of the share until the group says anew it is."""

    @property
    def settled(self) -> bool:
        """Whether the group has said what the share is; it may be none, in reserve."""
        return not self.over

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether the share is empty and will stay so."""

    @abstractmethod
    async def leave(self) -> None:
        """Stop being a member: the others get its share at once. Raises nothing; idempotent."""


class Fixed(Membership):
    """A process that works on the same partitions always, until others take them."""

    def __init__(self, partitions: Collection[int]) -> None:
        self._share = frozenset(partitions)

    async def join(self) -> None:
        """There is no group to tell."""

    def share(self) -> frozenset[int]:
        return self._share

    def fenced(self, partition: int) -> None:
        self._share -= {partition}

    @property
    def over(self) -> bool:
        return not self._share

    async def leave(self) -> None:
        """There is no group to tell."""
