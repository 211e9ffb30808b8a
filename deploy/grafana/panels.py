"""The few kinds of panels our dashboards are made of, on Grafana's foundation SDK."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
RATE = "[$__rate_interval]"
WIDTH = 24
HEIGHT = 7
GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True)
class Panel:
    """`queries`: PromQL by the legend of its series. `warn` and `bad` colour a value from there on;
    where `bad` is below `warn`, from there down. `span`: of 24 columns."""

    title: str
    about: str
    unit: str
    queries: Mapping[str, str]
    warn: float | None = None
    bad: float | None = None
    span: int = 8
    now: bool = False
    """The value of now in large figures, not a graph over time."""
    stacked: bool = False
    decimals: int | None = None


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Board:
    """`variables`: the query of each, as Grafana's Prometheus data source takes it."""

    uid: str
    title: str
    about: str
    rows: Sequence[Row]
    variables: Mapping[str, str]


def quantile(q: float, metric: str, by: str, where: str = "") -> str:
    """Of a histogram's observations within the rate interval."""
    labels = ", ".join(["le", *by.split()])
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{where}{RATE})))"


def rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({', '.join(by.split())}) (rate({metric}{where}{RATE}))"


def build(board: Board) -> models.Dashboard:
    made = (
        builders.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags(["perpflow"])
        .timezone("utc")
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            builders.DashboardLink("perpflow")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["perpflow"])
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(
            builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
    )
    for name, query in board.variables.items():
        made = made.with_variable(
            builders.QueryVariable(name)
            .query(query)
            .datasource(SOURCE)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(models.VariableOption(selected=True, text="All", value="$__all"))
        )
    numbers = count(1)
    for row in board.rows:
        made = made.with_row(builders.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            one = _stat(panel) if panel.now else _graph(panel)
            made = made.with_panel(one.id(next(numbers)))
    return made.build()


def _stat(panel: Panel) -> stat.Panel:
    made = _common(stat.Panel(), panel)
    made = made.height(HEIGHT - 2).color_mode(common.BigValueColorMode.BACKGROUND_SOLID)
    made = made.graph_mode(common.BigValueGraphMode.NONE)
    return made.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))


def _graph(panel: Panel) -> timeseries.Panel:
    made = _common(timeseries.Panel(), panel).height(HEIGHT)
    made = made.line_width(1).fill_opacity(30 if panel.stacked else 5).axis_soft_min(0)
    made = made.show_points(common.VisibilityMode.NEVER)
    made = made.tooltip(
        common_builders.VizTooltipOptions()
        .mode(common.TooltipDisplayMode.MULTI)
        .sort(common.SortOrder.DESCENDING)
    )
    if panel.bad is not None:
        style = common.GraphThresholdsStyleMode.DASHED
        made = made.thresholds_style(common_builders.GraphThresholdsStyleConfig().mode(style))
    if panel.stacked:
        made = made.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    return made


def _common(made, panel: Panel):  # type: ignore[no-untyped-def]  # the SDK's builders share no type
    made = made.title(panel.title).description(panel.about).unit(panel.unit).span(panel.span)
    made = made.datasource(SOURCE).thresholds(_thresholds(panel)).no_value("none")
    if panel.decimals is not None:
        made = made.decimals(panel.decimals)
    for letter, (legend, expression) in zip("ABCDEFGH", panel.queries.items(), strict=False):
        query = prometheus.Dataquery().ref_id(letter).expr(expression).legend_format(legend)
        query = query.datasource(SOURCE)
        made = made.with_target(query.instant() if panel.now else query.range())
    if panel.now and panel.bad is None:
        fixed = builders.FieldColor().mode(models.FieldColorModeId.FIXED).fixed_color("blue")
        made = made.color_scheme(fixed)
    return made


def _thresholds(panel: Panel) -> builders.ThresholdsConfig:
    bounds: list[tuple[float | None, str]] = [(None, GREEN)]
    if panel.bad is not None and panel.warn is not None:
        if panel.bad < panel.warn:
            bounds = [(None, RED), (panel.bad, YELLOW), (panel.warn, GREEN)]
        else:
            bounds = [(None, GREEN), (panel.warn, YELLOW), (panel.bad, RED)]
    steps = [models.Threshold(value=value, color=color) for value, color in bounds]
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
