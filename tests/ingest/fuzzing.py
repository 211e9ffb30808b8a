"""Broken input for parsers: real payloads, changed as nothing sends them.

A test gives its check and what it feeds on:

    @EXAMPLES
    def test_no_line_raises(examples: int) -> None:
        fuzz(examples, changed(LINES), check)

CI's examples are few and always the same; the nightly ones are many and new every time, and
hypothesis prints what failed with the way to repeat it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CI_EXAMPLES, NIGHTLY_EXAMPLES = 60, 3_000
EXAMPLES = pytest.mark.parametrize(
    "examples", [CI_EXAMPLES, pytest.param(NIGHTLY_EXAMPLES, marks=pytest.mark.nightly)]
)

DEEP = b"[" * 900 + b"]" * 900  # within what JSON decoders allow, beyond what `repr` does
TOKENS = (
    *(b"NaN", b"Infinity", b"-Infinity", b"null", b"true", b"{}", b"[]", b'""', b"0", b"-1"),
    *(b"1e999", b"-1e999", b"9" * 5_000, b"18446744073709551615", b"9223372036854775808", b"1.5"),
    *(b'"nan"', b'"inf"', b'"1_0"', b'"\\ud800"', b'"\\u0000"', b'"' + b"x" * 70_000 + b'"'),
    *(DEEP, b"[" * 100_000, b'{"a":' * 900 + b"1" + b"}" * 900, b"\xff\xfe", b"\xed\xa0\x80"),
)
ODD: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["", "-1", "1e400", "1_0", "nan", " 1", "٣", "9" * 400, "x" * 70_000]),
    st.just(orjson.loads(DEEP)),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.sampled_from("aesbut"), st.integers(0, 3), max_size=3),
)


def fuzz(examples: int, inputs: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Run the check on that many examples."""
    run = settings(
        max_examples=examples,
        derandomize=examples <= CI_EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )(given(inputs)(check))
    run()


def readable(error: Exception, most: int = 1_000) -> None:
    """It says something, and not all that was read."""
    assert 0 < len(str(error)) < most


@st.composite
def changed(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, or anything, after some changes of its bytes or of its JSON values."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    payload = draw(st.sampled_from(list(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        payload = draw(st.sampled_from(_CHANGES))(draw, payload, seeds)
    return payload


def _flip(draw: st.DrawFn, payload: bytes, _seeds: Sequence[bytes]) -> bytes:
    if not payload:
        return payload
    at = draw(st.integers(0, len(payload) - 1))
    bit = 1 << draw(st.integers(0, 7))
    return payload[:at] + bytes([payload[at] ^ bit]) + payload[at + 1 :]


def _cut(draw: st.DrawFn, payload: bytes, _seeds: Sequence[bytes]) -> bytes:
    return payload[: draw(st.integers(0, len(payload)))]


def _splice(draw: st.DrawFn, payload: bytes, seeds: Sequence[bytes]) -> bytes:
    """The start of one and the end of another; or one inside another."""
    other = draw(st.sampled_from(list(seeds)))
    at, to = draw(st.integers(0, len(payload))), draw(st.integers(0, len(other)))
    return payload[:at] + other[to:] + (payload[at:] if draw(st.booleans()) else b"")


def _token(draw: st.DrawFn, payload: bytes, _seeds: Sequence[bytes]) -> bytes:
    """A value of the JSON text replaced by one that is hard to take."""
    marks = [i + 1 for i, byte in enumerate(payload) if byte in b":["]
    if not marks:
        return payload
    at = draw(st.sampled_from(marks))
    ends = [i for i in range(at, len(payload)) if payload[i] in b",}]"]
    end = ends[0] if ends else len(payload)
    return payload[:at] + draw(st.sampled_from(TOKENS)) + payload[end:]


def _value(draw: st.DrawFn, payload: bytes, _seeds: Sequence[bytes]) -> bytes:
    """Another value at some path, a path less, or a key twice."""
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload
    places: list[tuple[Any, Any]] = []
    _walk(body, places)
    if not places:
        return payload
    parent, key = draw(st.sampled_from(places))
    what = draw(st.sampled_from(["value", "none", "twice"]))
    if what == "none":
        del parent[key]
    else:
        parent[key] = draw(ODD)
    try:
        text: bytes = orjson.dumps(body)
    except orjson.JSONEncodeError:  # nested once more than it writes
        return payload
    if what == "twice":  # the first member again, in front of itself
        return text.replace(b"{", b"{" + payload[1:].split(b",")[0] + b",", 1)
    return text


def _walk(value: Any, places: list[tuple[Any, Any]], levels: int = 8) -> None:
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value if isinstance(value, list) else ())
    )
    for key, inner in items:
        places.append((value, key))
        if levels and len(places) < 500:
            _walk(inner, places, levels - 1)


_CHANGES = (_flip, _cut, _splice, _token, _value, _value)
