"""Publishing: from bars and ticks on the log to files in the store."""

from deploy.grafana.panels import Board, Panel, Row, quantile, rate
from deploy.grafana.shared import process

_OF = '{job="publish"}'

_FILES = Row(
    "Files",
    [
        Panel(
            "Since the last flush",
            "Since everything that was read was last durable in files.",
            "s",
            {
                "bars": f"time() - perpflow_last_flush_timestamp_seconds{_OF}",
                "raw ticks": f"time() - (perpflow_raw_last_flush_timestamp_seconds{_OF} > 0)",
            },
            warn=120,
            bad=300,
        ),
        Panel(
            "Rows",
            "That became part of a file.",
            "cps",
            {
                "{{dataset}}": rate("perpflow_published_rows_total", "dataset", _OF),
                "raw {{kind}}": rate("perpflow_archived_rows_total", "kind", _OF),
            },
            stacked=True,
        ),
        Panel(
            "Objects written",
            "By the part of the tree.",
            "cps",
            {"{{tree}}": rate("perpflow_files_written_total", "tree", _OF)},
        ),
    ],
)
_BACKLOG = Row(
    "Backlog",
    [
        Panel(
            "Lag",
            "Age of the last record read, by topic.",
            "s",
            {"{{topic}}": f"perpflow_publish_lag_seconds{_OF}"},
            warn=60,
            bad=120,
            span=6,
        ),
        Panel(
            "Records not read yet",
            "By topic.",
            "none",
            {"{{topic}}": f"perpflow_publish_lag_records{_OF}"},
            span=6,
        ),
        Panel(
            "Read and not in files yet",
            "Bars.",
            "bytes",
            {"bars": f"perpflow_publish_pending_bytes{_OF}"},
            span=6,
        ),
        Panel(
            "Days to fold, and folded",
            "Days that are over, into their month files.",
            "none",
            {
                "series pending": f"perpflow_folds_pending{_OF}",
                "days folded": f"perpflow_folds_total{_OF}",
                "parts discarded": f"perpflow_parts_discarded_total{_OF}",
            },
            span=6,
        ),
    ],
)
_STORE = Row(
    "Store",
    [
        Panel(
            "Operations, 99 %",
            "Time of each, by operation.",
            "s",
            {"{{operation}}": quantile(0.99, "perpflow_store_operation_seconds", "operation", _OF)},
            span=6,
        ),
        Panel(
            "Operations",
            "By operation.",
            "cps",
            {"{{operation}}": rate("perpflow_store_operation_seconds_count", "operation", _OF)},
            span=6,
        ),
        Panel(
            "Errors",
            "Each try that failed.",
            "cps",
            {"{{operation}}": rate("perpflow_store_operation_errors_total", "operation", _OF)},
            warn=0.01,
            bad=0.02,
            span=6,
        ),
        Panel(
            "Flushes, 99 %",
            "From the first write of a flush to its commit.",
            "s",
            {"bars": quantile(0.99, "perpflow_flush_seconds", "", _OF)},
            span=6,
        ),
    ],
)
_CORRECT = Row(
    "Left out",
    [
        Panel(
            "Read again",
            "Left out because the files have them: after a restart.",
            "cps",
            {
                "{{dataset}}": rate("perpflow_published_repeats_total", "dataset", _OF),
                "raw": f"rate(perpflow_raw_repeats_total{_OF}[$__rate_interval])",
            },
        ),
        Panel(
            "Can't be read",
            "Records of the log.",
            "cps",
            {
                "bars {{reason}}": rate("perpflow_bars_malformed_total", "reason", _OF),
                "raw": f"rate(perpflow_raw_malformed_total{_OF}[$__rate_interval])",
            },
        ),
        Panel(
            "Lost to retention",
            "Records that the log removed before they were read.",
            "none",
            {
                "bars": f"perpflow_bars_trimmed_total{_OF}",
                "raw": f"perpflow_raw_trimmed_total{_OF}",
            },
        ),
    ],
)
BOARD = Board(
    "perpflow-publishing",
    "perpflow: publishing",
    "From bars and ticks on the log to files in the store.",
    [_FILES, _BACKLOG, _STORE, _CORRECT, process("publish")],
    {},
)
