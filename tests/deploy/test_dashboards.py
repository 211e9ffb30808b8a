"""The dashboards: current, valid, naming only what exists. test_prometheus.py asks a real one."""

import json
import re
from collections import Counter
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.generate import BOARDS, FOLDER, text
from deploy.grafana.panels import WIDTH
from tests.deploy.compose import config
from tests.deploy.dockerfile import ROOT
from tests.deploy.queries import Query, shipped, wrong

register_default_plugins()
GRAFANA = ROOT / "deploy" / "grafana"


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def through_the_schema(found: dict[str, Any]) -> dict[str, Any]:
    """Read into the types made from Grafana's schema and written again: the unknown goes."""
    made: dict[str, Any] = json.loads(json.dumps(Dashboard.from_json(found), cls=JSONEncoder))
    return made


@pytest.mark.parametrize("name", BOARDS)
def test_the_file_is_what_the_code_makes(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == text(BOARDS[name]), "run `make docs`"


def test_no_other_dashboard_is_there() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(BOARDS)


@pytest.mark.parametrize("name", BOARDS)
def test_grafanas_schema_knows_all_of_it(name: str) -> None:
    found = document(name)
    assert through_the_schema(found) == found


def test_what_the_schema_does_not_know_is_seen() -> None:
    found = document("overview")
    found["panels"][1]["fieldConfig"]["defaults"]["units"] = "s"
    assert through_the_schema(found) != found


@pytest.mark.parametrize("name", BOARDS)
def test_panels_are_complete_and_lie_side_by_side(name: str) -> None:
    found = document(name)
    panels = found["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    taken: Counter[tuple[int, int]] = Counter()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            taken.update((x, y) for y in range(place["y"], place["y"] + place["h"]))
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["description"].endswith((".", "…")), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
    assert set(taken.values()) == {1}, "panels lie over each other"


def test_links_to_a_dashboard_last() -> None:
    uids = {name: board.uid for name, board in BOARDS.items()}
    # Bookmarks and alerts name them: they don't change.
    assert uids == {name: f"perpflow-{name}" for name in BOARDS}
    assert set(BOARDS) == {"overview", "venue", "aggregation", "publishing", "api"}


def test_dashboards_and_rules_name_only_metrics_and_labels_that_exist() -> None:
    problems = [problem for query in shipped() for problem in wrong(query)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    "expression",
    [
        "rate(perpflow_tick_total[5m])",
        'perpflow_ticks_total{symbol="BTC"}',
        "perpflow_event_age_seconds",
        "perpflow:loss_ratio:rate2d > 1",
    ],
)
def test_what_does_not_exist_is_seen(expression: str) -> None:
    assert wrong(Query("here", expression))


def test_every_variable_is_used_and_every_one_used_is_there() -> None:
    for name, board in BOARDS.items():
        used = set(re.findall(r"\$(\w+)", json.dumps(document(name)["panels"]))) - {
            "__rate_interval",
        }
        assert used == set(board.variables), name


def test_compose_gives_grafana_the_dashboards_and_their_source() -> None:
    provided = yaml.safe_load((GRAFANA / "provisioning/dashboards/perpflow.yml").read_text())
    (provider,) = provided["providers"]
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())
    (source,) = sources["datasources"]
    services = config("live")["services"]
    mounted = {v["target"]: v["source"] for v in services["grafana"]["volumes"]}
    assert mounted[provider["options"]["path"]] == str(FOLDER)
    assert mounted["/etc/grafana/provisioning"] == str(GRAFANA / "provisioning")
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/overview.json"
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
