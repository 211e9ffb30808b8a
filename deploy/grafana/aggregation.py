"""Aggregation: from ticks on the log to bars on the log."""

from deploy.grafana.panels import Board, Panel, Row, quantile, rate
from deploy.grafana.shared import process

_OF = '{job="aggregate", instance=~"$instance"}'

_TIME = Row(
    "Time",
    [
        Panel(
            "Behind now",
            "The time that closes windows, of each shard's slowest partition.",
            "s",
            {
                "{{shard}}": "time() - min by (shard) "
                f"(max by (shard, partition) (perpflow_watermark_timestamp_seconds{_OF}))"
            },
            warn=5,
            bad=60,
        ),
        Panel(
            "From a window's end to its bars on the log",
            "Of the oldest window in each commit of one-second bars.",
            "s",
            {
                f"{{{{clock}}}} {name}": quantile(
                    q,
                    "perpflow_bar_close_delay_seconds",
                    "clock",
                    '{job="aggregate", instance=~"$instance", interval="1s"}',
                )
                for q, name in ((0.5, "50 %"), (0.99, "99 %"))
            },
        ),
        Panel(
            "Lag",
            "Age of the last record read, of the slowest partition.",
            "s",
            {"{{topic}}": f"max by (topic) (perpflow_aggregate_lag_seconds{_OF})"},
            warn=30,
            bad=60,
        ),
    ],
)
_WORK = Row(
    "Work",
    [
        Panel(
            "Records not read yet",
            "Of all partitions.",
            "none",
            {"{{topic}}": f"sum by (topic) (perpflow_aggregate_lag_records{_OF})"},
            span=6,
        ),
        Panel(
            "Sealing, 99 %",
            "Time to seal, roll up and encode what a read made due.",
            "s",
            {"{{instance}}": quantile(0.99, "perpflow_seal_duration_seconds", "instance", _OF)},
            span=6,
        ),
        Panel(
            "Commits, 99 %",
            "Time to make bars, state and offsets of a partition durable together.",
            "s",
            {"{{instance}}": quantile(0.99, "perpflow_commit_seconds", "instance", _OF)},
            span=6,
        ),
        Panel(
            "Records of bars",
            "Written to the log.",
            "cps",
            {"{{instance}}": rate("perpflow_bar_records_total", "instance", _OF)},
            span=6,
        ),
    ],
)
_TICKS = Row(
    "Ticks in no bar",
    [
        Panel(
            "Left out, by reason",
            "Duplicates are copies of redundant collectors: no loss.",
            "cps",
            {
                "{{clock}} {{kind}} {{reason}}": rate(
                    "perpflow_aggregate_discarded_total", "clock kind reason", _OF
                )
            },
            span=12,
        ),
        Panel(
            "Lost to retention",
            "Records that the log removed before they were read.",
            "none",
            {"{{topic}}": f"sum by (topic) (perpflow_ticks_trimmed_total{_OF})"},
            span=6,
        ),
        Panel(
            "Begun anew",
            "Partitions started from their last commit because the log failed.",
            "cps",
            {"{{instance}}": rate("perpflow_aggregate_failures_total", "instance", _OF)},
            span=6,
        ),
    ],
)
_STATE = Row(
    "State",
    [
        Panel(
            "Partitions",
            "That each process works on.",
            "none",
            {"{{instance}}": f"perpflow_aggregate_partitions{_OF}"},
            stacked=True,
            span=5,
        ),
        Panel(
            "Open windows",
            "Rows held for windows that are open.",
            "none",
            {"{{instance}}": f"sum by (instance) (perpflow_open_windows{_OF})"},
            span=5,
        ),
        Panel(
            "Ticks held",
            "For seconds that are open.",
            "none",
            {"{{instance}}": f"sum by (instance) (perpflow_aggregate_held_ticks{_OF})"},
            span=4,
        ),
        Panel(
            "State",
            "Of all partitions, as committed.",
            "bytes",
            {"{{instance}}": f"sum by (instance) (perpflow_aggregate_state_bytes{_OF})"},
            span=5,
        ),
        Panel(
            "Taking a partition over, 99 %",
            "Fencing the owner before, reading and restoring its state.",
            "s",
            {"{{instance}}": quantile(0.99, "perpflow_takeover_seconds", "instance", _OF)},
            span=5,
        ),
    ],
)
BOARD = Board(
    "perpflow-aggregation",
    "perpflow: aggregation",
    "From ticks on the log to bars on the log.",
    [_TIME, _WORK, _TICKS, _STATE, process("aggregate", ', instance=~"$instance"')],
    {"instance": 'label_values(up{job="aggregate"}, instance)'},
)
