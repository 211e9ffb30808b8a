"""How partitions are shared out over the members of a group: evenly, moving what must. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """The partitions that a member was given last, and in which generation of the group."""

    generation: int
    partitions: Collection[int]


def share_out(count: int, claims: Mapping[str, Claim]) -> dict[str, list[int]]:
    """Partitions 0 to count - 1 by member: each one once, numbers that differ by one at most.

    A member keeps what it has up to its part; of two claims of one partition the later generation
    counts. Of all even shares this is one that moves the fewest partitions. Members in any order
    give the same result.
    """
    kept = _rightful(count, claims)
    # Who has most has the larger parts, so that as little as possible moves.
    order = sorted(claims, key=lambda member: (-len(kept[member]), member))
    least, larger = divmod(count, len(order))
    part = {member: least + (i < larger) for i, member in enumerate(order)}
    shares = {member: kept[member][: part[member]] for member in order}
    given = {partition for share in shares.values() for partition in share}
    free = iter(sorted(set(range(count)) - given))
    for member in order:
        while len(shares[member]) < part[member]:
            shares[member].append(next(free))
        shares[member].sort()
    return shares


def _rightful(count: int, claims: Mapping[str, Claim]) -> dict[str, list[int]]:
    holder: dict[int, str] = {}
    for member in sorted(claims, key=lambda m: (claims[m].generation, m)):
        for partition in claims[member].partitions:
            if 0 <= partition < count:
                holder[partition] = member
    kept: dict[str, list[int]] = {member: [] for member in claims}
    for partition in sorted(holder):
        kept[holder[partition]].append(partition)
    return kept
