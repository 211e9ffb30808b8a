"""Prometheus metrics of the publisher, counted per file or flush; no label names a symbol."""

from prometheus_client import Counter, Gauge, Histogram

ROWS = Counter("perpflow_published_rows_total", "Bars that became part of a file", ["dataset"])
REPEATED = Counter(
    "perpflow_published_repeats_total",
    "Bars left out because the file has them: read again after a restart",
    ["dataset"],
)
MALFORMED = Counter(
    "perpflow_bars_malformed_total", "Records of the bars topic that could not be read", ["reason"]
)
TRIMMED = Counter(
    "perpflow_bars_trimmed_total", "Records that retention removed before they were published"
)
FOLDS = Counter("perpflow_folds_total", "Days folded into a month file")
DISCARDED = Counter("perpflow_parts_discarded_total", "Day parts deleted some time after the fold")
STORE_ERRORS = Counter(
    "perpflow_store_errors_total", "Store operations that failed and are retried", ["stage"]
)
LOG_ERRORS = Counter(
    "perpflow_publish_log_errors_total", "Times publishing began anew because the log failed"
)
FLUSH_SECONDS = Histogram(
    "perpflow_flush_seconds",
    "From the first write of a flush to its commit",
    buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300),
)
LAST_FLUSH = Gauge(
    "perpflow_last_flush_timestamp_seconds", "When everything read was last durable in files"
)
PENDING_BYTES = Gauge("perpflow_publish_pending_bytes", "Bars read and not yet in files")
API_REQUESTS = Counter("perpflow_api_requests_total", "Requests answered", ["route", "status"])
API_SECONDS = Histogram(
    "perpflow_api_request_seconds",
    "From a request to the end of its answer",
    ["route"],
    buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
ARCHIVED = Counter("perpflow_archived_rows_total", "Rows written to the raw archive", ["kind"])
RAW_REPEATED = Counter(
    "perpflow_raw_repeats_total", "Records left out of the archive: their producer sent them twice"
)
RAW_MALFORMED = Counter(
    "perpflow_raw_malformed_total", "Records of the tick topics that could not be archived"
)
RAW_TRIMMED = Counter(
    "perpflow_raw_trimmed_total", "Records that retention removed before they were archived"
)
RAW_DAYS = Counter("perpflow_raw_days_total", "Day files of the raw archive made", ["kind"])
RAW_LAST_FLUSH = Gauge(
    "perpflow_raw_last_flush_timestamp_seconds", "When all ticks read were last durable in files"
)
FILES = Counter(
    "perpflow_files_written_total",
    "Objects written, by the part of the tree: metrics, metrics_open, raw, raw_open, …",
    ["tree"],
)
STORE_SECONDS = Histogram(
    "perpflow_store_operation_seconds",
    "Time of a store operation; of a write that of making its content too",
    ["operation"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
)
STORE_FAILURES = Counter(
    "perpflow_store_operation_errors_total",
    "Store operations that failed, each try, by operation",
    ["operation"],
)
PENDING_RECORDS = Gauge(
    "perpflow_publish_pending_records", "Records of bars read and not yet in files"
)
LAG = Gauge("perpflow_publish_lag_records", "Records of the log not read yet, by topic", ["topic"])
LAG_SECONDS = Gauge(
    "perpflow_publish_lag_seconds", "Age of the last record read, 0 where all are read", ["topic"]
)
FOLDS_PENDING = Gauge("perpflow_folds_pending", "Series with days that are over and not yet folded")
BUILD = Gauge(
    "perpflow_build_info", "1; which version runs, on what", ["version", "python", "event_loop"]
)
READY = Gauge("perpflow_ready", "Whether /readyz says so: 1, 0")
LOOP_LAG = Histogram(
    "perpflow_event_loop_lag_seconds",
    "How late the event loop comes to what is due, sampled twice a second",
    ["loop"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
