"""ingest/covering.py: each instrument is covered when all its own subscriptions stand."""

from ingest.covering import Covering


def test_each_instrument_is_on_its_own() -> None:
    covering = Covering("AB")
    assert covering.take(set()) == {}
    assert covering.take({"A"}) == {"A": False}
    assert covering
    assert covering.take({"A"}) == {}
    assert covering.take({"A", "B"}) == {"B": False}
    assert not covering


def test_one_that_is_listed_again_is_covered_anew() -> None:
    covering = Covering("AB")
    covering.take({"A", "B"})
    covering.gone("A")
    assert covering.take({"A", "B"}) == {}  # what still comes of it
    covering.listed("A")
    assert covering.take({"B"}) == {}  # not asked for yet
    assert covering.take({"A", "B"}) == {"A": True}


def test_one_that_is_gone_before_it_was_covered_is_not_waited_for() -> None:
    covering = Covering("AB")
    covering.gone("B")
    covering.take({"A"})
    assert not covering
