"""ingest/covering.py: each instrument is covered when all its own subscriptions stand."""

from ingest.covering import Covering

WANTED = {(channel, native) for channel in ("bbo", "trades") for native in "AB"}


def test_each_instrument_is_on_its_own() -> None:
    covering = Covering("AB")
    assert covering.take(WANTED, {("bbo", "A"), ("bbo", "B")}) == {}
    assert covering.take(WANTED, WANTED - {("bbo", "B")}) == {"A": False}
    assert covering
    assert covering.take(WANTED, WANTED - {("bbo", "B")}) == {}
    assert covering.take(WANTED, WANTED) == {"B": False}
    assert not covering


def test_one_that_is_listed_again_is_covered_anew() -> None:
    covering = Covering("AB")
    covering.take(WANTED, WANTED)
    covering.gone("A")
    assert covering.take(WANTED - {("bbo", "A"), ("trades", "A")}, WANTED) == {}
    covering.listed("A")
    assert covering.take(set(), WANTED) == {}  # not asked for yet
    assert covering.take(WANTED, WANTED) == {"A": True}


def test_one_that_is_gone_before_it_was_covered_is_not_waited_for() -> None:
    covering = Covering("AB")
    covering.gone("B")
    covering.take(WANTED, {("bbo", "A"), ("trades", "A")})
    assert not covering
