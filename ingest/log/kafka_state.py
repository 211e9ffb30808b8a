"""Owners' state and offsets as records of the compacted state topic. Pure.

Keys are JSON, so that any tool can read them; the partition is the owner's:

    ["<group>"]                 offsets: JSON [[topic, partition, next offset], …], all of them
    ["<group>", "<key>", n]     part n of the value of a state key, PART_BYTES at most; part 0 has
                                the header `parts`, how many there are
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from msgspec.json import Decoder

from ingest.log import LogError, TopicPartition
from ingest.words import shown

PART_BYTES = 512 * 1024
_PARTS = "parts"

_COUNT_DIGITS = 9
_keys = Decoder(list[str | int | None]).decode
_offsets = Decoder(list[tuple[str, int, int]]).decode

Headers = Sequence[tuple[str, bytes]]
Raw = tuple[bytes | None, bytes | None, Headers]
"""A record's key, value (None: the key is gone) and headers."""
Offsets = dict[TopicPartition, int]


class BadState(LogError):
    """What is on the state topic is not what `encode` writes."""


@dataclass(slots=True)
class OwnerState:
    """What one group has committed in one partition of the state topic."""

    values: dict[str, bytes] = field(default_factory=dict)
    offsets: Offsets = field(default_factory=dict)


def encode(
    group: str,
    state: Mapping[str, bytes | None],
    parts_before: Mapping[str, int],
    offsets: Mapping[TopicPartition, int],
) -> list[Raw]:
    """Records for those changes (None deletes) and for all offsets.

    `parts_before`: of how many parts each key's value is now, so that surplus ones are deleted.
    """
    out: list[Raw] = []
    for key, value in state.items():
        parts = [] if value is None else split(value)
        for n, part in enumerate(parts):
            headers = [(_PARTS, str(len(parts)).encode())] if n == 0 else []
            out.append((orjson.dumps([group, key, n]), part, headers))
        for n in range(len(parts), parts_before.get(key, 0)):
            out.append((orjson.dumps([group, key, n]), None, []))
    listed = [[topic, partition, at] for (topic, partition), at in offsets.items()]
    out.append((orjson.dumps([group]), orjson.dumps(listed), []))
    return out


def split(value: bytes) -> list[bytes]:
    """The value in parts; one, empty, for an empty value."""
    return [value[i : i + PART_BYTES] for i in range(0, max(len(value), 1), PART_BYTES)]


def part_counts(state: Mapping[str, bytes | None]) -> dict[str, int]:
    """Of how many parts each key's value is; 0 for a deleted one."""
    return {key: 0 if value is None else len(split(value)) for key, value in state.items()}


def fold(records: Iterable[Raw], group: str) -> OwnerState:
    """What the records of a state partition, in order, leave to a group."""
    parts: dict[tuple[str, int], tuple[bytes, int]] = {}
    owner = OwnerState()
    for raw, value, headers in records:
        name, key, n = _key(raw)
        if name != group:
            continue
        if key is None:
            owner.offsets = read_offsets(value)
        elif value is None:
            parts.pop((key, n), None)
        else:
            parts[key, n] = value, _count(headers)
    for (key, n), (_, count) in parts.items():
        if n == 0:
            if not all((key, i) in parts for i in range(min(count, len(parts) + 1))):
                raise BadState(f"state {key!r} of group {group}: of {count} parts some are missing")
            owner.values[key] = b"".join(parts[key, i][0] for i in range(count))
    return owner


def group_of_offsets(key: bytes | None) -> str | None:
    """The group of an offsets record's key; None for other records."""
    name, state_key, _ = _key(key)
    return name if state_key is None else None


def read_offsets(value: bytes | None) -> Offsets:
    """Raises `BadState`."""
    try:
        return {(topic, partition): at for topic, partition, at in _offsets(value or b"[]")}
    except (ValueError, RecursionError) as error:
        raise BadState(f"offsets on the state topic can't be read: {shown(error)}") from error


def _key(raw: bytes | None) -> tuple[str | None, str | None, int]:
    """(group, state key, part); of offsets the key is None, of a record without a key the group."""
    try:
        match _keys(raw or b"[null]"):
            case [str() | None as group]:
                return group, None, 0
            case [str() as group, str() as key, int() as n]:
                return group, key, n
    except (ValueError, RecursionError) as error:
        raise BadState(f"a key of the state topic can't be read: {shown(error)}") from error
    raise BadState(f"a key of the state topic can't be read: {shown(raw)}")


def _count(headers: Headers) -> int:
    text = dict(headers).get(_PARTS, b"0")
    if not text.isdigit() or len(text) > _COUNT_DIGITS:
        raise BadState(f"of how many parts a state is can't be read: {shown(text)}")
    return int(text)
