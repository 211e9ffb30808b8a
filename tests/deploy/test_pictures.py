"""The dashboards drawn of a real Prometheus' answers; docs/overview.png is one of these."""

import time
from pathlib import Path

import matplotlib.image
import pytest

from deploy.grafana.generate import BOARDS
from tests.deploy.deployment import Deployment
from tests.deploy.pictures import Span, draw
from tests.deploy.test_prometheus import ask_the_api, deployment  # noqa: F401 (a fixture)
from tests.end_to_end.processes import wait_until
from tests.publish.conftest import *  # noqa: F403 (the S3 server)

pytestmark = [pytest.mark.xdist_group("kafka"), pytest.mark.nightly]
SPAN_S = 180.0
DOWN_S = (60.0, 90.0)


def test_every_dashboard_shows_what_happened(deployment: Deployment, tmp_path: Path) -> None:  # noqa: F811
    start = time.time()
    events = [
        (DOWN_S[0], lambda: deployment.venues("down okx-perps")),
        (DOWN_S[1], lambda: deployment.venues("heal")),
    ]
    for at, happen in events:
        wait_until(lambda at=at: _traffic(deployment) and time.time() > start + at, SPAN_S, "time")
        happen()
    wait_until(lambda: _traffic(deployment) and time.time() > start + SPAN_S, SPAN_S, "time")
    end = time.time()

    def ask(expression: str) -> list:
        return deployment.query_range(expression, start, end, 2.0)

    for name, board in BOARDS.items():
        path = tmp_path / f"{name}.png"
        shown = draw(board, Span(start, end, ask), path)
        panels = sum(len(row.panels) for row in board.rows)
        print(f"{path}: {shown} of {panels} panels show something")
        assert shown > panels * 0.6
        picture = matplotlib.image.imread(path)
        assert picture.std() > 0.05, "nothing is drawn"


def _traffic(running: Deployment) -> bool:
    ask_the_api(running)
    time.sleep(0.3)
    return True
