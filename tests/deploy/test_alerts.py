"""The alerts: promtool's word on them, a case of firing and of not for each, and their runbooks."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.deploy.alert_cases import CASES
from tests.deploy.debian import program
from tests.deploy.dockerfile import ROOT
from tests.deploy.rules import RULES, alerts, run_promtool

RUNBOOKS = ROOT / "docs" / "runbooks.md"


def test_promtool_and_amtool_accept_what_is_configured() -> None:
    folder = ROOT / "deploy"
    for command in (
        [program("promtool"), "check", "rules", *RULES],
        [program("promtool"), "check", "config", folder / "prometheus" / "prometheus.yml"],
        [program("amtool"), "check-config", folder / "alertmanager" / "alertmanager.yml"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_nothing_else_does(tmp_path: Path) -> None:
    done = run_promtool(CASES, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    cased = {name for case in CASES for name, _ in case.alerts}
    assert cased | {"Watchdog"} == set(alerts())


def test_a_wrong_expectation_is_seen(tmp_path: Path) -> None:
    fires = next(case for case in CASES if case.alerts)
    for wrong in (replace(fires, alerts=()), replace(CASES[0], alerts=fires.alerts)):
        assert run_promtool([wrong], tmp_path).returncode != 0


@pytest.mark.nightly
def test_what_is_said_of_an_alert_has_every_value_filled_in(tmp_path: Path) -> None:
    first = {name: case for case in reversed(CASES) for name, _ in case.alerts}
    shown = [replace(case, shown=[name]) for name, case in first.items()]
    said = run_promtool(shown, tmp_path).stderr
    for name in first:
        (text,) = re.findall(rf'Labels:\{{alertname="{name}".*\n\s+Annotations:\{{(.*)\}}', said)[
            :1
        ]
        assert "summary=" in text, name
        assert not re.search(r"<no value>|<error|\{\{|  |\(\)", text), text
        print(text)


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_what_to_do(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["severity"] in ("page", "ticket", "none")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert ROOT / path == RUNBOOKS
    assert anchor == name.lower()
    match = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", RUNBOOKS.read_text(), re.M | re.S)
    assert match is not None, f"no section {name}"
    assert len(match[1].split()) > 20


def test_no_runbook_is_of_an_alert_that_is_gone() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOKS.read_text(), re.M)
    assert set(headings) == set(alerts())


def test_what_alertmanager_hides_exists() -> None:
    document = yaml.safe_load((ROOT / "deploy" / "alertmanager" / "alertmanager.yml").read_text())
    said = "\n".join(
        matcher
        for rule in document["inhibit_rules"]
        for matcher in (*rule["source_matchers"], *rule["target_matchers"])
    )
    named = {n for text in re.findall(r'alertname =~? "([^"]+)"', said) for n in text.split("|")}
    assert named <= set(alerts())
