"""The file of API keys."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from publish.keys import DEMO, DEMO_KEY, KeyFile, KeysError, table
from tests.publish.serving import Clock


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "sub" / "keys.json", Clock())


def test_a_key_is_known_by_its_whole_text_alone(keys: KeyFile) -> None:
    text = keys.add("someone", "prime", 7)
    key = keys.authenticate(text)
    assert key is not None
    assert (key.name, key.plan, key.rate) == ("someone", "prime", 7)
    other = keys.add("other", "standard")
    identity = text.split("_")[1]
    swapped = f"pf_{identity}_{other.split('_', 2)[2]}"
    for wrong in ("", text[:-1], f"{text}x", f" {text}", text.swapcase(), swapped, key.hash):
        assert keys.authenticate(wrong) is None
    for odd in ("pf__", f"pf_{identity}", "_" * 9, "ключ", "\x00", "x" * 100_000):
        assert keys.authenticate(odd) is None


def test_neither_keys_nor_anything_that_opens_is_in_the_file(keys: KeyFile) -> None:
    text = keys.add("someone", "prime")
    content = keys.path.read_text()
    assert text not in content
    assert text.split("_", 2)[2] not in content
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    shown = table(keys.keys())
    assert json.loads(content)["keys"][0]["hash"] not in shown
    assert "someone" in shown


def test_the_demo_key_is_for_previews(keys: KeyFile) -> None:
    keys.add("someone", "prime")
    assert keys.authenticate(DEMO_KEY) == DEMO
    assert DEMO.plan == "preview"


def test_another_process_sees_changes_within_a_second(keys: KeyFile) -> None:
    text = keys.add("someone", "prime")
    clock = Clock()
    server = KeyFile(keys.path, clock)
    key = server.authenticate(text)
    assert key is not None
    second = keys.add("second", "standard")
    assert keys.revoke(key.id) == key
    clock.now += 1
    assert server.authenticate(text) is None
    assert not server.holds(key)
    assert server.authenticate(second) is not None


def test_a_key_that_another_process_added_works_at_once(keys: KeyFile) -> None:
    keys.add("first", "prime")
    server = KeyFile(keys.path, Clock())
    assert server.authenticate("pf_00000000_wrong") is None
    assert server.authenticate(keys.add("second", "standard")) is not None


def test_the_signing_secret_stays_while_keys_come_and_go(keys: KeyFile) -> None:
    first = keys.add("someone", "prime")
    secret = keys.signing_secret()
    assert len(secret) == 32
    keys.revoke(first.split("_")[1])
    keys.add("other", "prime")
    assert keys.signing_secret() == secret


def test_many_who_add_at_once(keys: KeyFile) -> None:
    def add(number: int) -> str:
        return KeyFile(keys.path).add(f"key {number}", "standard")

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(add, range(24)))
    assert len(keys.keys()) == 24
    assert all(keys.authenticate(text) for text in texts)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"signing_secret": "00", "keys": []}',
        '{"signing_secret": "%s", "keys": [{"id": "x"}]}' % ("00" * 32),
        '{"signing_secret": "%s", "keys": [{"id": "x", "name": "", "plan": "gold", "rate": 1,'
        ' "created": "", "hash": ""}]}' % ("00" * 32),
    ],
)
def test_another_file_is_refused(keys: KeyFile, content: str) -> None:
    keys.path.parent.mkdir()
    keys.path.write_text(content)
    with pytest.raises(KeysError, match=r"keys\.json: not a file of perpflow's keys"):
        keys.authenticate("pf_x_y")


def test_what_is_missing_is_told(keys: KeyFile) -> None:
    with pytest.raises(KeysError, match="perpflow keys add"):
        keys.keys()
    keys.add("someone", "prime")
    with pytest.raises(KeysError, match="there is no key 'nobody': see perpflow keys list"):
        keys.revoke("nobody")
