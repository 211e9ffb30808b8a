"""ingest/trouble.py: one line when it begins, one for a new reason, reminders, one when it ends."""

import structlog
from structlog.testing import capture_logs

from ingest.trouble import MAX_REMIND_S, REASONS, REMIND_S, Trouble


class Told:
    def __init__(self) -> None:
        self.now = 0.0
        log = structlog.get_logger("tests")
        self.trouble = Trouble(log, "it fails", "it works again", now=lambda: self.now)


def test_a_day_of_attempts_is_a_few_lines() -> None:
    told = Told()
    with capture_logs() as lines:
        for _ in range(24 * 3600 // 30):
            told.trouble.failed("refused")
            told.now += 30.0
        told.trouble.over()
        told.trouble.over()
    kinds = [line["event"] for line in lines]
    assert kinds[0] == "it fails"
    assert kinds.count("it works again") == 1
    assert len(kinds) < 7 + 24 * 3600 / MAX_REMIND_S
    reminded = [line["for_s"] for line in lines if "for_s" in line]
    assert reminded[:3] == [60, 180, 420]
    assert lines[-1]["attempts"] == 24 * 3600 // 30
    assert lines[-1]["after_s"] == 24 * 3600


def test_a_new_reason_is_told_and_many_are_not() -> None:
    told = Told()
    with capture_logs() as lines:
        for reason in ("refused", "silent", "refused", *map(str, range(100))):
            told.trouble.failed(reason)
        told.now = REMIND_S
        told.trouble.failed("refused")
    assert [line["reason"] for line in lines[:2]] == ["refused", "silent"]
    assert len(lines) == REASONS + 1


def test_it_is_over_when_none_fails_any_more() -> None:
    told = Told()
    with capture_logs() as lines:
        told.trouble.failed("refused", "a")
        told.trouble.failed("refused", "b")
        told.trouble.over("a")
        assert len(lines) == 1
        told.trouble.over("b")
        told.trouble.failed("refused", "a")
    assert [line["event"] for line in lines] == ["it fails", "it works again", "it fails"]
