"""Which days a call asks for, and that its report's file is replaced whole."""

from datetime import date
from pathlib import Path

import pytest

from publish.audit.command import rules_of, wanted_days, write_json
from publish.audit.report import AuditReport
from publish.settings import AggregateSettings, Settings

TODAY = date(2026, 12, 1)


@pytest.mark.parametrize(
    ("month", "day", "wanted"),
    [
        (None, None, (2026, 11, None)),
        ("2026-10", None, (2026, 10, None)),
        (None, "2026-10-03", (2026, 10, 3)),
    ],
)
def test_by_default_yesterdays_month(
    month: str | None, day: str | None, wanted: tuple[int, int, int | None]
) -> None:
    assert wanted_days(month, day, TODAY) == wanted


@pytest.mark.parametrize(
    ("month", "day", "told"),
    [
        ("2026-10", "2026-10-03", "--month or --day, not both"),
        ("10-2026", None, '--month 10-2026: should be a month like "2026-11"'),
        (None, "2026-11-31", '--day 2026-11-31: should be a day like "2026-11-20"'),
    ],
)
def test_what_is_no_day_is_refused(month: str | None, day: str | None, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        wanted_days(month, day, TODAY)


def test_the_rules_are_those_of_live() -> None:
    chosen = AggregateSettings(hold="1s", lateness="7s", toxicity_reset="day")
    rules = rules_of(Settings(aggregate=chosen))
    assert (rules.hold_ns, rules.lateness_ns) == (1_000_000_000, 7_000_000_000)
    assert (rules.toxicity_reset, rules.partial) == ("day", False)


def test_the_file_of_the_last_report_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    for of in ("2026-10", "2026-11"):
        write_json(path, AuditReport(of))
        assert f'"audited": "{of}"' in path.read_text()
    assert list(tmp_path.iterdir()) == [path]
