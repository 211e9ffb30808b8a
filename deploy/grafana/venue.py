"""Venue: what a venue sends, how it arrives, and what is missing of it."""

from deploy.grafana.panels import Board, Panel, Row, quantile, rate
from deploy.grafana.shared import process

_OF = '{exchange=~"$exchange", instance=~"$instance"}'

_ARRIVAL = Row(
    "Arrival",
    [
        Panel(
            "Ticks",
            "By kind, of each collector.",
            "cps",
            {
                "{{exchange}} {{kind}} {{instance}}": rate(
                    "perpflow_ticks_total", "exchange kind instance", _OF
                )
            },
        ),
        Panel(
            "Age on arrival",
            "From a tick's exchange time to its arrival: venue, network and the two clocks.",
            "s",
            {
                "{{exchange}} {{kind}} 50 %": quantile(
                    0.5, "perpflow_event_age_seconds", "exchange kind", _OF
                ),
                "{{exchange}} {{kind}} 99 %": quantile(
                    0.99, "perpflow_event_age_seconds", "exchange kind", _OF
                ),
            },
        ),
        Panel(
            "Bytes",
            "Off the websockets.",
            "Bps",
            {
                "{{exchange}} {{instance}}": rate(
                    "perpflow_received_bytes_total", "exchange instance", _OF
                )
            },
        ),
    ],
)
_CONNECTIONS = Row(
    "Connections",
    [
        Panel(
            "Connections, by state",
            "All should be subscribed.",
            "none",
            {"{{exchange}} {{state}}": f"sum by (exchange, state) (perpflow_connections{_OF})"},
            stacked=True,
            span=6,
        ),
        Panel(
            "Lost, by reason",
            "Closed by the venue, silent, refused, …",
            "cps",
            {
                "{{exchange}} {{reason}}": rate(
                    "perpflow_connections_lost_total", "exchange reason", _OF
                )
            },
            span=6,
        ),
        Panel(
            "Replaced before they ended",
            "By age, after the venue's notice, or because a channel was silent.",
            "cps",
            {
                "{{exchange}} {{reason}}": rate(
                    "perpflow_connections_replaced_total", "exchange reason", _OF
                ),
                "{{exchange}} {{kind}} silent": rate(
                    "perpflow_channel_silent_total", "exchange kind", _OF
                ),
            },
            span=6,
        ),
        Panel(
            "Instruments",
            "That the settings select; the subscriptions refused.",
            "none",
            {
                "{{exchange}}": f"max by (exchange) (perpflow_instruments{_OF})",
                "{{exchange}} refused": "sum by (exchange) "
                f"(perpflow_subscriptions_refused_total{_OF})",
            },
            span=6,
        ),
    ],
)
_GAPS = Row(
    "Gaps",
    [
        Panel(
            "Gaps found, by reason",
            "In the trade ids of a symbol, or in the connection.",
            "cps",
            {"{{exchange}} {{reason}}": rate("perpflow_gaps_total", "exchange reason", _OF)},
            span=6,
        ),
        Panel(
            "Gaps closed, by how",
            "Whole, partly, or not to be healed.",
            "cps",
            {"{{exchange}} {{state}}": rate("perpflow_gaps_closed_total", "exchange state", _OF)},
            span=6,
        ),
        Panel(
            "Trades healed and missing",
            "Healed: fetched over REST.",
            "cps",
            {
                "{{exchange}} healed": rate("perpflow_trades_healed_total", "exchange", _OF),
                "{{exchange}} missing": rate("perpflow_trades_missing_total", "exchange", _OF),
            },
            span=6,
        ),
        Panel(
            "REST history",
            "Requests by status, and their weight as the venue counts it.",
            "cps",
            {
                "{{exchange}} {{status}}": rate(
                    "perpflow_history_requests_total", "exchange status", _OF
                ),
                "{{exchange}} weight": rate("perpflow_history_weight_total", "exchange", _OF),
            },
            span=6,
        ),
    ],
)
_LOG = Row(
    "To the log",
    [
        Panel(
            "Append latency",
            "From the first try until the log has it.",
            "s",
            {
                "{{exchange}} 50 %": quantile(0.5, "perpflow_append_seconds", "exchange", _OF),
                "{{exchange}} 99 %": quantile(0.99, "perpflow_append_seconds", "exchange", _OF),
            },
            span=6,
        ),
        Panel(
            "Waiting in memory",
            "For the log; the peak since the start, and where reading pauses.",
            "bytes",
            {
                "{{exchange}} {{instance}}": f"perpflow_append_queue_bytes{_OF}",
                "{{exchange}} {{instance}} peak": f"perpflow_append_queue_peak_bytes{_OF}",
                "{{exchange}} limit": f"max by (exchange) (perpflow_append_queue_limit_bytes{_OF})",
            },
            span=6,
        ),
        Panel(
            "Spool",
            "Part of it that is full: ticks wait on disk while the log is away.",
            "percentunit",
            {
                "{{exchange}} {{instance}}": f"perpflow_spool_bytes{_OF} "
                f"/ perpflow_spool_limit_bytes{_OF}"
            },
            warn=0.2,
            bad=0.5,
            span=6,
        ),
        Panel(
            "Appends that failed",
            "And were tried again.",
            "cps",
            {"{{exchange}}": rate("perpflow_append_failures_total", "exchange", _OF)},
            span=6,
        ),
    ],
)
BOARD = Board(
    "perpflow-venue",
    "perpflow: venue",
    "What a venue sends, how it arrives, and what is missing of it.",
    [_ARRIVAL, _CONNECTIONS, _GAPS, _LOG, process("ingest", ', instance=~"$instance"')],
    {
        "exchange": "label_values(perpflow_ticks_total, exchange)",
        "instance": 'label_values(up{job="ingest"}, instance)',
    },
)
