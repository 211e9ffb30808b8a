"""Log lines on stderr: readable when a person watches, one JSON object a line otherwise."""

import logging
import sys

import structlog


def configure_logs() -> None:
    """Send structlog's and the libraries' log lines (INFO and above) to stderr in one form."""
    person = sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.typing.Processor] = (
        # Its own way of showing a traceback shows local variables, and so passwords.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if person
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("websockets", "httpx", "httpcore", "botocore", "aiobotocore", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It tells of every attempt at a broker that is down; what fails for good is raised as well.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
