"""Prometheus metrics of the live stream, counted per batch; no label names a key or a symbol."""

from prometheus_client import Counter, Gauge

CONNECTIONS = Gauge("perpflow_stream_connections", "Open connections of the live stream")
ROWS = Counter("perpflow_stream_rows_total", "Rows handed to connections' sockets")
DROPPED = Counter(
    "perpflow_stream_dropped_total",
    "Connections that the server ended, by why: slow, control_frames, revoked",
    ["reason"],
)
REFUSED = Counter("perpflow_stream_refused_total", "Handshakes refused, by HTTP status", ["status"])
REJECTED = Counter("perpflow_stream_rejected_total", "Channels refused, by code", ["code"])
