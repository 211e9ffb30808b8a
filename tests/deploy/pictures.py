"""Pictures of what the dashboards show, drawn of the answers to their own queries.

There is no Grafana here. Layout, titles, legends, units and thresholds are those of the dashboards;
how they look is only near to Grafana.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import dates, pyplot
from matplotlib.axes import Axes

from deploy.grafana.panels import HEIGHT, WIDTH, Board, Panel
from tests.deploy.queries import Query

_INCHES = 0.72, 0.38  # of a column, of a row of the grid
_BACK, _PANEL, _INK, _DIM = "#111217", "#181b1f", "#ccccdc", "#6e7079"
_COLOURS = {"green": "#73bf69", "yellow": "#fade2a", "red": "#f2495c", "blue": "#5794f2"}
_LINES = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d"]
_LEGENDS = 6
Answer = Sequence[tuple[str, Sequence[float], Sequence[float]]]
"""(legend, times, values) of each series."""


@dataclass(frozen=True)
class Span:
    """`ask`: the series of a PromQL expression from `start` to `end` (seconds since the epoch)."""

    start: float
    end: float
    ask: Callable[[str], Sequence[Mapping[str, object]]]

    def answer(self, panel: Panel) -> Answer:
        found = []
        for legend, expression in panel.queries.items():
            for series in self.ask(Query("", expression).runnable("15s")):
                labels, points = series["metric"], series["values"]
                assert isinstance(labels, dict)
                assert isinstance(points, list)
                name = re.sub(r"\{\{(\w+)\}\}", lambda m, of=labels: of.get(m[1], ""), legend)
                pairs = [(float(t), float(v)) for t, v in points if not math.isnan(float(v))]
                if pairs:
                    found.append((name.strip(), *zip(*pairs, strict=True)))
        return found


def draw(board: Board, span: Span, path: Path) -> int:
    """Write the board as a PNG; returns how many of its panels had anything to show."""
    places, height = _places(board)
    figure = pyplot.figure(
        figsize=(WIDTH * _INCHES[0], height * _INCHES[1]), facecolor=_BACK, layout=None
    )
    shown = 0
    for panel, (x, y, w, h) in places:
        left = 0.006 if isinstance(panel, str) or panel.now else 0.036
        pad = 0.9 / height
        box = (
            x / WIDTH + left,
            1 - (y + h) / height + pad * 0.9,
            w / WIDTH - left - 0.006,
            h / height - pad * 1.9,
        )
        if isinstance(panel, str):
            figure.text(x / WIDTH + 0.005, 1 - (y + 0.8) / height, panel, color=_INK, size=11)
            continue
        axes = figure.add_axes(box)
        answer = span.answer(panel)
        shown += bool(answer)
        axes.set_title(panel.title, color=_INK, size=9, loc="left", pad=4)
        (_stat if panel.now else _graph)(axes, panel, answer, span)
    figure.savefig(path, dpi=80, facecolor=_BACK)
    pyplot.close(figure)
    return shown


def _places(board: Board) -> tuple[list[tuple[Panel | str, tuple[int, int, int, int]]], int]:
    """Rows' titles and panels with (x, y, width, height) on the grid, and the grid's height."""
    places: list[tuple[Panel | str, tuple[int, int, int, int]]] = []
    y = 0
    for row in board.rows:
        places.append((row.title, (0, y, WIDTH, 1)))
        y, x, lowest = y + 1, 0, 0
        for panel in row.panels:
            height = HEIGHT - 2 if panel.now else HEIGHT
            if x + panel.span > WIDTH:
                y, x = y + lowest, 0
            places.append((panel, (x, y, panel.span, height)))
            x, lowest = x + panel.span, height
        y += lowest
    return places, y


def _stat(axes: Axes, panel: Panel, answer: Answer, span: Span) -> None:
    axes.set_axis_off()
    n = max(len(answer), 1)
    for i, (name, _, values) in enumerate(answer or [("none", [0.0], [math.nan])]):
        colour = _COLOURS[_colour(panel, values[-1])]
        box = {"transform": axes.transAxes, "facecolor": colour, "clip_on": False}
        axes.add_patch(pyplot.Rectangle((i / n, 0), 1 / n - 0.02, 1, **box))
        place = {"transform": axes.transAxes, "ha": "center", "va": "center", "color": "#111217"}
        text = _text(values[-1], panel.unit, panel.decimals)
        size = min(22.0, 150.0 * panel.span / 6 / n / max(len(text), 3))
        axes.text((i + 0.5) / n - 0.01, 0.56, text, size=size, weight="bold", **place)
        axes.text((i + 0.5) / n - 0.01, 0.14, name, size=7, **place)


def _colour(panel: Panel, value: float) -> str:
    if panel.warn is None or panel.bad is None or math.isnan(value):
        return "blue"
    if panel.bad < panel.warn:
        return "green" if value >= panel.warn else "yellow" if value >= panel.bad else "red"
    return "red" if value >= panel.bad else "yellow" if value >= panel.warn else "green"


def _graph(axes: Axes, panel: Panel, answer: Answer, span: Span) -> None:
    axes.set_facecolor(_PANEL)
    axes.set_prop_cycle(color=_LINES)
    axes.tick_params(colors=_DIM, labelsize=7, length=0)
    axes.grid(color="#2c2f36", linewidth=0.5)
    for spine in axes.spines.values():
        spine.set_color("#2c2f36")
    begin, end = (datetime.fromtimestamp(t, UTC) for t in (span.start, span.end))
    axes.set_xlim(begin, end)
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S", tz=UTC))
    axes.xaxis.set_major_locator(pyplot.MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: _text(value, panel.unit, None))
    if not answer:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, color=_DIM, ha="center")
        return
    for name, times, values in answer:
        stamps = [datetime.fromtimestamp(t, UTC) for t in times]
        axes.plot(stamps, values, linewidth=1, label=name or panel.title)
    top = axes.get_ylim()[1]
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), top * 1.3 if top > 0 else 1.0)  # room for names
    for bound, colour in ((panel.warn, "yellow"), (panel.bad, "red")):
        if bound is not None and bound < top:
            axes.axhline(bound, color=_COLOURS[colour], linestyle="--", linewidth=0.8)
    handles, labels = axes.get_legend_handles_labels()
    style = {"fontsize": 6, "frameon": False, "labelcolor": _INK, "loc": "upper left"}
    axes.legend(handles[:_LEGENDS], labels[:_LEGENDS], ncols=2, **style)


def _text(value: float, unit: str, decimals: int | None) -> str:
    """As Grafana writes it, nearly."""
    if math.isnan(value):
        return "none"
    if unit == "percentunit":
        return f"{100 * value:.{decimals or 0}f} %"
    if unit == "s":
        return _scaled(value, [(86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")])
    if unit in ("bytes", "Bps"):
        sizes = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")]
        return _scaled(value, sizes) + ("/s" if unit == "Bps" else "")
    rate = "/s" if unit in ("cps", "reqps") else ""
    return _scaled(value, [(1e6, "M"), (1e3, "k"), (1, "")]).rstrip() + rate


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    size, name = next(((s, n) for s, n in units if abs(value) >= s), units[-1])
    return f"{value / size:.3g} {name}" if value else f"0 {name}" if name in ("", "B") else "0"
