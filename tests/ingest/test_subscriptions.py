"""ingest/subscriptions.py: what comes, goes, is refused and is asked for again."""

from ingest.subscriptions import LINGER_S, RETRIES, RETRY_S, Due, Subscriptions
from ingest.venues import Endpoint, Notice

A, B, C = (("trades", name) for name in "ABC")


def acked(*channels: tuple[str, str]) -> Subscriptions:
    subscriptions = Subscriptions(Endpoint("/", (), channels, acks=len(channels)))
    for channel in channels:
        subscriptions.acknowledged(Notice("ack", *channel))
    subscriptions.opened(0.0)
    return subscriptions


def test_an_ack_that_is_repeated_or_was_not_asked_for_answers_nothing() -> None:
    subscriptions = Subscriptions(Endpoint("/", (), (A, B), acks=2))
    assert subscriptions.acknowledged(Notice("ack", *A)) == {A}
    for channel in (A, A, C):
        assert subscriptions.acknowledged(Notice("ack", *channel)) == set()
    assert not subscriptions.answered
    assert subscriptions.acknowledged(Notice("ack", *B)) == {B}
    assert subscriptions.answered


def test_what_comes_and_goes_is_asked_for_once() -> None:
    subscriptions = acked(A, B)
    assert subscriptions.answered
    assert not subscriptions.due(1.0)
    subscriptions.want([B, C])
    assert subscriptions.due(1.0) == Due(new=[C])
    assert not subscriptions.due(LINGER_S)
    assert subscriptions.due(1.0 + LINGER_S) == Due(leave=[A])  # its last ticks may be behind
    assert not subscriptions.due(2.0 + LINGER_S)
    assert subscriptions.confirmed == {B}
    assert subscriptions.acknowledged(Notice("ack", *C)) == {C}
    assert subscriptions.acknowledged(Notice("ack", *A)) == set()
    assert subscriptions.confirmed == {B, C}
    assert subscriptions.answered


def test_what_goes_and_comes_back_at_once_is_not_left() -> None:
    subscriptions = acked(A)
    subscriptions.want([])
    subscriptions.want([A])
    assert subscriptions.due(1.0) == Due(new=[A])
    subscriptions.acknowledged(Notice("ack", *A))
    assert not subscriptions.due(2.0 + LINGER_S)


def test_what_is_subscribed_anew_is_left_first() -> None:
    subscriptions = acked(A, B)
    subscriptions.renew([A, C])
    assert subscriptions.due(1.0) == Due(leave=[A], new=[A])
    assert subscriptions.confirmed == {B}
    assert not subscriptions.hopeless


def test_answers_by_number_alone() -> None:
    subscriptions = Subscriptions(Endpoint("/", (), (A, B), acks=1))
    subscriptions.acknowledged(Notice("ack", number="1"))
    assert subscriptions.confirmed == {A, B}
    subscriptions.want([B, C])
    due = subscriptions.due(0.0)
    left, asked = subscriptions.number(()), subscriptions.number(due.new)
    assert not subscriptions.acknowledged(Notice("ack", number=str(left)))
    assert subscriptions.refuse(Notice("error", text="no", number=str(asked))) == ["C"]
    assert subscriptions.refused == [C]
    assert subscriptions.acknowledged(Notice("ack", number=str(asked))) == {C}


def test_what_is_refused_or_not_answered_is_asked_for_ever_more_rarely_then_given_up() -> None:
    subscriptions = Subscriptions(Endpoint("/", (), (A, B), acks=2))
    subscriptions.acknowledged(Notice("ack", *A))
    assert subscriptions.refuse(Notice("error", *B, text="60018 no")) == ["B"]
    subscriptions.opened(0.0)
    asked, given_up = [], []
    for second in range(int(RETRY_S * 2 ** (RETRIES + 2))):
        due = subscriptions.due(float(second))
        assert not due.new
        asked += [second] * bool(due.again)
        given_up += [second] * bool(due.given_up)
    assert asked == [31, 92, 213, 454, 935]
    assert len(given_up) == 1
    subscriptions.want([A])
    subscriptions.want([A, B])  # listed again: a new chance
    assert subscriptions.due(0.0).new == [B]


def test_one_where_everything_is_refused_is_hopeless() -> None:
    subscriptions = Subscriptions(Endpoint("/", (), (A, B), acks=1))
    assert not subscriptions.hopeless
    assert subscriptions.refuse(Notice("error", text="2 Invalid request")) == ["A", "B"]
    assert subscriptions.hopeless
