"""API: what is asked, how fast it is answered, and the live stream."""

from deploy.grafana.panels import RATE, Board, Panel, Row, quantile, rate
from deploy.grafana.shared import process

_OF = '{job="serve"}'
_FAILED = '{job="serve", status=~"5.."}'

_REQUESTS = Row(
    "Requests",
    [
        Panel(
            "Requests, by status",
            "Of all routes.",
            "reqps",
            {"{{status}}": rate("perpflow_api_requests_total", "status", _OF)},
            stacked=True,
            span=6,
        ),
        Panel(
            "Requests, by route",
            "Of any status.",
            "reqps",
            {"{{route}}": rate("perpflow_api_requests_total", "route", _OF)},
            span=6,
        ),
        Panel(
            "Time to answer, 99 %",
            "By route.",
            "s",
            {"{{route}}": quantile(0.99, "perpflow_api_request_seconds", "route", _OF)},
            span=6,
        ),
        Panel(
            "Failing",
            "The part of the requests that got a 5xx.",
            "percentunit",
            {
                "5xx": f"(sum(rate(perpflow_api_requests_total{_FAILED}{RATE}))"
                f" or vector(0)) / sum(rate(perpflow_api_requests_total{_OF}{RATE}))"
            },
            warn=0.01,
            bad=0.05,
            span=6,
        ),
    ],
)
_STREAM = Row(
    "Live stream",
    [
        Panel(
            "Connections",
            "Open.",
            "none",
            {"{{instance}}": f"perpflow_stream_connections{_OF}"},
            span=6,
        ),
        Panel(
            "Rows",
            "Handed to the connections' sockets.",
            "cps",
            {"{{instance}}": f"rate(perpflow_stream_rows_total{_OF}{RATE})"},
            span=6,
        ),
        Panel(
            "Connections ended, by why",
            "By the server: too slow to read, a key revoked, …",
            "cps",
            {"{{reason}}": rate("perpflow_stream_dropped_total", "reason", _OF)},
            span=6,
        ),
        Panel(
            "Refused",
            "Handshakes by HTTP status, channels by code.",
            "cps",
            {
                "handshake {{status}}": rate("perpflow_stream_refused_total", "status", _OF),
                "channel {{code}}": rate("perpflow_stream_rejected_total", "code", _OF),
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
            "Listing and reading, by operation.",
            "s",
            {"{{operation}}": quantile(0.99, "perpflow_store_operation_seconds", "operation", _OF)},
            span=12,
        ),
        Panel(
            "Errors",
            "Each try that failed.",
            "cps",
            {"{{operation}}": rate("perpflow_store_operation_errors_total", "operation", _OF)},
            span=12,
        ),
    ],
)
BOARD = Board(
    "perpflow-api",
    "perpflow: API",
    "What is asked, how fast it is answered, and the live stream.",
    [_REQUESTS, _STREAM, _STORE, process("serve")],
    {},
)
