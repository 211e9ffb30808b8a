"""Panels that several dashboards have."""

from deploy.grafana.panels import RATE, Panel, Row, quantile


def process(job: str, where: str = "") -> Row:
    """What the processes of a job take. `where`: more labels, each after a comma."""
    of = f'{{job="{job}"{where}}}'
    return Row(
        "Processes",
        [
            Panel(
                "CPU",
                "Of a core, by process.",
                "percentunit",
                {"{{instance}}": f"rate(process_cpu_seconds_total{of}{RATE})"},
                span=6,
            ),
            Panel(
                "Memory",
                "Resident.",
                "bytes",
                {"{{instance}}": f"process_resident_memory_bytes{of}"},
                span=6,
            ),
            Panel(
                "Open files",
                "And sockets.",
                "none",
                {"{{instance}}": f"process_open_fds{of}"},
                span=6,
            ),
            Panel(
                "Event loop, late by, 99 %",
                "How late an event loop comes to what is due.",
                "s",
                {
                    "{{instance}} {{loop}}": quantile(
                        0.99, "perpflow_event_loop_lag_seconds", "instance loop", of
                    )
                },
                span=6,
            ),
        ],
    )
