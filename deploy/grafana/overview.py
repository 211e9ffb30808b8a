"""Overview: is data fresh, complete and right, and how much of the error budget is left."""

from deploy.grafana.panels import RATE, Board, Panel, Row, quantile, rate

_LEFT_OUT = (
    'perpflow_aggregate_discarded_total{clock=~"exchange|both", kind="trades", '
    'reason=~"late|future|source_lagging|malformed_.*"}'
)
_TRADES = 'perpflow_ticks_total{kind="trades"}'
_MISSING = "perpflow_trades_missing_total"


def _lost(span: str) -> str:
    """The part of all trades that is in no bar."""
    lost = (
        f"(sum(increase({_MISSING}[{span}])) or vector(0))"
        f" + (sum(increase({_LEFT_OUT}[{span}])) or vector(0))"
    )
    return f"({lost}) / sum(increase({_TRADES}[{span}]))"


_NOW = Row(
    "Now",
    [
        Panel(
            "Since the newest tick",
            "Of a venue, at any collector.",
            "s",
            {
                "{{exchange}}": "time() - max by (exchange) "
                "(perpflow_last_arrival_timestamp_seconds)"
            },
            warn=10,
            bad=30,
            span=6,
            now=True,
            decimals=1,
        ),
        Panel(
            "Bars, behind now",
            "How far the time that closes windows is behind the clock, in the slowest partition.",
            "s",
            {
                "{{shard}}": "time() - min by (shard) (max by (shard, partition) "
                "(perpflow_watermark_timestamp_seconds))"
            },
            warn=5,
            bad=60,
            span=6,
            now=True,
            decimals=1,
        ),
        Panel(
            "Since the last files",
            "Since everything that was read was last durable in files.",
            "s",
            {"": 'time() - perpflow_last_flush_timestamp_seconds{job="publish"}'},
            warn=120,
            bad=300,
            span=2,
            now=True,
            decimals=0,
        ),
        Panel(
            "Trades in bars, 1 h",
            "The part of the trades of the last hour that is in bars of the exchange clock.",
            "percentunit",
            {"": f"1 - {_lost('1h')}"},
            warn=0.9999,
            bad=0.999,
            span=3,
            now=True,
            decimals=3,
        ),
        Panel(
            "Error budget left, 30 d",
            "Of the 0.1 % of the trades that may be in no bar; below 0 it is overdrawn.",
            "percentunit",
            {"": f"1 - ({_lost('30d')}) / 0.001"},
            warn=0.5,
            bad=0.1,
            span=3,
            now=True,
            decimals=0,
        ),
        Panel(
            "Alerts",
            "Firing, but for the dead man's switch.",
            "none",
            {"": 'count(ALERTS{alertstate="firing", alertname!="Watchdog"}) or vector(0)'},
            warn=1,
            bad=2,
            span=2,
            now=True,
        ),
        Panel(
            "Processes down",
            "That don't answer Prometheus.",
            "none",
            {"": 'count(up{job=~"ingest|aggregate|publish|serve|audit"} == 0) or vector(0)'},
            warn=1,
            bad=2,
            span=2,
            now=True,
        ),
    ],
)
_FRESH = Row(
    "Freshness",
    [
        Panel(
            "Since the newest tick",
            "Of each kind, at the collector that has the newest.",
            "s",
            {
                "{{exchange}} {{kind}}": "time() - max by (exchange, kind) "
                "(perpflow_last_arrival_timestamp_seconds)"
            },
            warn=10,
            bad=30,
        ),
        Panel(
            "From a second's end to its bar on the log, 99 %",
            "Bars of the true clock wait for the hold (250 ms), those of the exchange clock for "
            "late ticks too (5 s).",
            "s",
            {
                "{{clock}}": quantile(
                    0.99, "perpflow_bar_close_delay_seconds", "clock", '{interval="1s"}'
                )
            },
        ),
        Panel(
            "Lag of who reads the log",
            "Age of the last record read, of the slowest partition; 0 where all are read.",
            "s",
            {
                "aggregate {{topic}}": "max by (topic) "
                '(perpflow_aggregate_lag_seconds{job="aggregate"})',
                "publish {{topic}}": 'max by (topic) (perpflow_publish_lag_seconds{job="publish"})',
            },
            warn=30,
            bad=60,
        ),
    ],
)
_COMPLETE = Row(
    "Completeness",
    [
        Panel(
            "Ticks",
            "Received, by all collectors together.",
            "cps",
            {"{{exchange}} {{kind}}": rate("perpflow_ticks_total", "exchange kind")},
            stacked=True,
        ),
        Panel(
            "Trades missed and healed",
            "Healed: fetched over REST for a gap. Missing: stay so.",
            "cps",
            {
                "{{exchange}} missing": rate(_MISSING, "exchange"),
                "{{exchange}} healed": rate("perpflow_trades_healed_total", "exchange"),
            },
        ),
        Panel(
            "Error budget burnt, over 1 h",
            "1: as fast as the objective of 99.9 % allows; from 14.4 on someone is woken.",
            "none",
            {"{{loss}} {{exchange}}": "perpflow:loss_ratio:rate1h / 0.001"},
            warn=1,
            bad=14.4,
        ),
    ],
)
_RIGHT = Row(
    "Correctness",
    [
        Panel(
            "Clocks, ahead of the venues'",
            "By the venues' REST time; Hyperliquid has none.",
            "s",
            {"{{instance}} {{exchange}}": "perpflow_clock_offset_seconds"},
            span=6,
        ),
        Panel(
            "What can't be read",
            "Frames of the venues, and records of the log.",
            "cps",
            {
                "frames {{exchange}}": rate("perpflow_frames_malformed_total", "exchange"),
                "bars": f'sum(rate(perpflow_bars_malformed_total{{job="publish"}}{RATE}))',
                "raw": f'sum(rate(perpflow_raw_malformed_total{{job="publish"}}{RATE}))',
            },
            span=6,
        ),
        Panel(
            "Audit: bars that differ, by cause",
            "Of the last audit: what was published, and what the archived ticks give. other: a "
            "defect.",
            "none",
            {
                "{{exchange}} {{cause}}": "sum by (exchange, cause) "
                '(perpflow_audit_differences{job="audit"})'
            },
            span=6,
        ),
        Panel(
            "Audit: trades that are there",
            "Received or healed, of those that the venues' ids say there were.",
            "percentunit",
            {"{{exchange}}": 'perpflow_audit_completeness_ratio{job="audit"}'},
            span=6,
        ),
    ],
)
BOARD = Board(
    "perpflow-overview",
    "perpflow: overview",
    "Is data fresh, complete and right?",
    [_NOW, _FRESH, _COMPLETE, _RIGHT],
    {},
)
