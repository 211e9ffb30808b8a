"""Writes the dashboards: `python -m deploy.grafana.generate` makes dashboards/*.json anew.

They are made here and not in Grafana, so that they are reviewed, tested and alike everywhere; the
tests check that the files are what this makes.
"""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import aggregation, api, overview, publishing, venue
from deploy.grafana.panels import Board, build

FOLDER = Path(__file__).parent / "dashboards"
BOARDS: dict[str, Board] = {
    "overview": overview.BOARD,
    "venue": venue.BOARD,
    "aggregation": aggregation.BOARD,
    "publishing": publishing.BOARD,
    "api": api.BOARD,
}


def text(board: Board) -> str:
    return json.dumps(build(board), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def main() -> None:
    for name, board in BOARDS.items():
        (FOLDER / f"{name}.json").write_text(text(board))


if __name__ == "__main__":
    main()
