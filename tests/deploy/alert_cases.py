"""What each alert fires on and what it lets pass: for every alert a case of both."""

from tests.deploy.rules import (
    COLLECTORS,
    EXCHANGES,
    Case,
    Value,
    discarded,
    flat,
    histogram,
    named,
    now,
    rising,
    stopped,
)

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
BINANCE = EXCHANGES[0]
VENUE = {"exchange": BINANCE}
FIRST = {"job": "ingest", "instance": COLLECTORS[0]}
AGGREGATOR = {"job": "aggregate", "instance": "10.0.0.1:9108"}
PUBLISH = {"job": "publish", "instance": "publish:9108"}
AUDIT = {"job": "audit", "instance": "audit:9108"}
SERVE = {"job": "serve", "instance": "serve:9108"}
ARRIVAL = "perpflow_last_arrival_timestamp_seconds"


def on_both(metric: str, value: Value | None, **labels: str) -> dict[str, Value | None]:
    """The series of Binance on both collectors."""
    return {
        named(metric, **at, **labels): value
        for at in ({"job": "ingest", "instance": one, "exchange": BINANCE} for one in COLLECTORS)
    }


def on_first(metric: str, value: Value, **labels: str) -> dict[str, Value | None]:
    return {named(metric, **FIRST, exchange=BINANCE, **labels): value}


def arrival(trades: Value | None, quotes: Value | None) -> dict[str, Value | None]:
    return {**on_both(ARRIVAL, trades, kind="trades"), **on_both(ARRIVAL, quotes, kind="quotes")}


def of_publisher(name: str, value: Value, **labels: str) -> dict[str, Value | None]:
    return {named(f"perpflow_{name}", **labels, **PUBLISH): value}


def requests(failing: float) -> dict[str, Value | None]:
    name = "perpflow_api_requests_total"
    return {
        named(name, route="/data", status="200", **SERVE): rising(10 - failing),
        named(name, route="/data", status="503", **SERVE): rising(failing),
    }


def missing(per_second: float, after: float = 0.0) -> dict[str, Value | None]:
    """Of 50 trades a second on each collector."""
    return on_both("perpflow_trades_missing_total", rising(per_second, after))


def close_delay(seconds: float, clock: str) -> dict[str, Value | None]:
    metric = "perpflow_bar_close_delay_seconds"
    return {**histogram(metric, seconds, clock=clock, interval="1s", **AGGREGATOR)}


WATERMARK = named(
    "perpflow_watermark_timestamp_seconds", shard=BINANCE, **AGGREGATOR, partition="1"
)
LAG = named("perpflow_aggregate_lag_seconds", topic="ticks.trades", **AGGREGATOR, partition="1")
TRIMMED = named("perpflow_ticks_trimmed_total", topic="ticks.trades", **AGGREGATOR)
FLUSHED = of_publisher("last_flush_timestamp_seconds", stopped(120))
ARCHIVED = of_publisher("raw_last_flush_timestamp_seconds", stopped(120))
NEVER_FLUSHED = of_publisher("last_flush_timestamp_seconds", flat(0))


def started(*at: float) -> dict[str, Value | None]:
    """The publisher, at these times."""
    return {
        named("process_start_time_seconds", **PUBLISH): lambda t: max(
            (s for s in at if s <= t), default=0.0
        )
    }


UP = [
    Case("all is well", 30 * MINUTE, step=MINUTE),
    Case(
        "no aggregator answers",
        2 * MINUTE,
        {named("up", job="aggregate", instance=f"10.0.0.{n}:9108"): flat(0) for n in (1, 2)},
        [("JobDown", {"job": "aggregate"})],
    ),
    Case(
        "no aggregator is known",
        2 * MINUTE,
        {named("up", job="aggregate", instance=f"10.0.0.{n}:9108"): None for n in (1, 2)},
        [("JobDown", {"job": "aggregate"})],
    ),
    Case(
        "one aggregator of two",
        3 * MINUTE,
        {named("up", **AGGREGATOR): flat(0)},
        [("TargetDown", AGGREGATOR)],
    ),
    Case("one, for a scrape", 3 * MINUTE, {named("up", **AGGREGATOR): lambda t: int(t != 150)}),
    Case(
        "the publisher ends again and again",
        12 * MINUTE,
        started(120, 240, 360, 480, 600),
        [("Restarting", PUBLISH)],
    ),
    Case("it was upgraded", 12 * MINUTE, started(120, 480)),
    Case(
        "the publisher is stuck",
        11 * MINUTE,
        {named("perpflow_ready", **PUBLISH): flat(0)},
        [("NotReady", PUBLISH)],
    ),
    Case("it is catching up", 9 * MINUTE, {named("perpflow_ready", **PUBLISH): flat(0)}),
    Case("a venue is away", 11 * MINUTE, {named("perpflow_ready", **FIRST): flat(0)}),
]

FRESH = [
    Case(
        "a venue stops",
        4 * MINUTE,
        arrival(stopped(60), stopped(61)),
        [("VenueStale", VENUE)],
    ),
    Case("for a minute", 2 * MINUTE, arrival(stopped(60), stopped(61))),
    Case("a venue that never came", 2 * MINUTE, arrival(None, None), [("VenueStale", VENUE)]),
    Case(
        "at one collector",
        8 * MINUTE,
        on_first(ARRIVAL, stopped(60), kind="trades"),
        [("CollectorBehind", {**FIRST, **VENUE, "kind": "trades"})],
    ),
    Case("for five minutes", 5 * MINUTE, on_first(ARRIVAL, stopped(60), kind="trades")),
    Case(
        "trades stop, quotes don't",
        6 * MINUTE,
        arrival(stopped(60), now()),
        [("ChannelSilent", {**VENUE, "kind": "trades"})],
    ),
    Case("for two minutes", 3 * MINUTE, arrival(stopped(60), now())),
    Case("quotes that never came", 2 * MINUTE, arrival(now(), None), [("ChannelSilent", VENUE)]),
    Case(
        "quotes are old",
        16 * MINUTE,
        {
            k: v
            for at in COLLECTORS
            for k, v in histogram(
                "perpflow_event_age_seconds", 4, kind="quotes", job="ingest", instance=at, **VENUE
            ).items()
        },
        [("ArrivalLate", {**VENUE, "kind": "quotes"})],
    ),
    Case(
        "quotes are slow",
        16 * MINUTE,
        {
            k: v
            for at in COLLECTORS
            for k, v in histogram(
                "perpflow_event_age_seconds", 2, kind="quotes", job="ingest", instance=at, **VENUE
            ).items()
        },
    ),
    Case(
        "aggregation falls behind",
        8 * MINUTE,
        {LAG: rising(0.5)},
        [("LagGrowing", AGGREGATOR)],
    ),
    Case("and catches up", 8 * MINUTE, {LAG: lambda t: 600 - t / 2}),
    Case(
        "the publisher falls behind",
        8 * MINUTE,
        of_publisher("publish_lag_seconds", rising(0.5), topic="bars"),
        [("LagGrowing", PUBLISH)],
    ),
    Case(
        "time stands",
        4 * MINUTE,
        {WATERMARK: stopped(60)},
        [("BarsStopped", {})],
    ),
    Case(
        "time is held up",
        2 * MINUTE,
        {WATERMARK: stopped(60)},
    ),
    Case(
        "bars close late",
        8 * MINUTE,
        close_delay(4, "true"),
        [("BarCloseDelay", {})],
    ),
    Case(
        "bars of the exchange clock wait for late ticks",
        8 * MINUTE,
        close_delay(6, "exchange"),
    ),
    Case(
        "nothing is flushed",
        9 * MINUTE,
        FLUSHED,
        [("PublisherStalled", PUBLISH)],
    ),
    Case("for five minutes", 6 * MINUTE, FLUSHED),
    Case(
        "nothing is archived",
        40 * MINUTE,
        ARCHIVED,
        [("ArchiveStalled", PUBLISH)],
    ),
    Case("for half an hour", 30 * MINUTE, ARCHIVED),
    Case(
        "no archive is wanted",
        40 * MINUTE,
        of_publisher("raw_last_flush_timestamp_seconds", flat(0)),
    ),
]
MISSING = {**VENUE, "loss": "missing"}

COMPLETE = [
    Case(
        "2 % of a venue's trades for an hour",
        HOUR,
        missing(1.0),
        [("CompletenessBurn", MISSING), ("GapsUnhealed", VENUE)],
        step=2 * MINUTE,
    ),
    Case(
        "2 % for some minutes, an hour ago",
        8 * HOUR,
        on_both(
            "perpflow_trades_missing_total", lambda t: min(max(t - 6.9 * HOUR, 0.0), 5 * MINUTE)
        ),
        step=5 * MINUTE,
    ),
    Case(
        "1 % for six hours",
        6 * HOUR,
        missing(0.5),
        [("CompletenessBurn", MISSING), ("CompletenessBurnSlow", MISSING), ("GapsUnhealed", VENUE)],
        step=5 * MINUTE,
    ),
    Case(
        "0.4 % for a day",
        DAY,
        missing(0.2),
        [("CompletenessBurnSlow", MISSING), ("GapsUnhealed", VENUE)],
        step=5 * MINUTE,
    ),
    Case("0.05 % for a day", DAY, missing(0.025), [("GapsUnhealed", VENUE)], step=5 * MINUTE),
    Case(
        "too late for their bars",
        HOUR,
        {**discarded({"late": 6}, **AGGREGATOR)},
        [("CompletenessBurn", {"loss": "left_out"})],
        step=2 * MINUTE,
    ),
    Case(
        "copies are no loss", HOUR, {**discarded({"duplicate": 50}, **AGGREGATOR)}, step=2 * MINUTE
    ),
    Case(
        "healed",
        30 * MINUTE,
        {
            **on_both("perpflow_gaps_total", rising(0.1), reason="jump"),
            **on_both("perpflow_gaps_closed_total", rising(0.1), state="whole"),
        },
    ),
    Case(
        "a gap that nobody heals",
        20 * MINUTE,
        on_first("perpflow_gaps_total", flat(1), reason="jump"),
        [("GapsOpen", VENUE)],
    ),
    Case(
        "for nine minutes",
        15 * MINUTE,
        on_first("perpflow_gaps_total", lambda t: float(t > 6 * MINUTE), reason="jump"),
    ),
    *(
        Case(
            f"retention took from {job}",
            10 * MINUTE,
            {series: lambda t: float(t > 300)},
            [("RetentionLoss", {"job": job})],
        )
        for job, series in (
            ("aggregate", TRIMMED),
            ("publish", named("perpflow_bars_trimmed_total", **PUBLISH)),
            ("publish", named("perpflow_raw_trimmed_total", **PUBLISH)),
        )
    ),
    Case(
        "a symbol is refused for good",
        10 * MINUTE,
        on_first("perpflow_subscriptions_given_up_total", lambda t: float(t > 300)),
        [("SymbolsGivenUp", VENUE)],
    ),
    Case(
        "no list of instruments",
        40 * MINUTE,
        on_both("perpflow_instrument_list_fetched_timestamp_seconds", stopped(60)),
        [("InstrumentListStale", VENUE)],
    ),
    Case(
        "for half an hour",
        33 * MINUTE,
        on_both("perpflow_instrument_list_fetched_timestamp_seconds", stopped(60)),
    ),
]

RIGHT = [
    Case(
        "a clock is 0.6 s behind",
        5 * MINUTE,
        on_first("perpflow_clock_offset_seconds", flat(-0.6)),
        [("ClockOffset", {**FIRST, **VENUE})],
    ),
    Case(
        "it may be right",
        5 * MINUTE,
        {
            **on_first("perpflow_clock_offset_seconds", flat(-0.6)),
            **on_first("perpflow_clock_offset_uncertainty_seconds", flat(0.2)),
        },
    ),
    Case(
        "a clock is stepped",
        10 * MINUTE,
        on_first("perpflow_clock_steps_total", lambda t: float(t > 300), reason="forward"),
        [("ClockStepped", {"instance": COLLECTORS[0]})],
    ),
    Case(
        "it was, long ago",
        30 * MINUTE,
        on_first("perpflow_clock_steps_total", lambda t: float(t > 300), reason="forward"),
    ),
    Case(
        "frames of another format",
        12 * MINUTE,
        on_both("perpflow_frames_malformed_total", rising(1), reason="json"),
        [("FramesUnreadable", VENUE)],
    ),
    Case(
        "one in ten thousand",
        12 * MINUTE,
        on_both("perpflow_frames_malformed_total", rising(0.01), reason="json"),
    ),
    *(
        Case(
            f"{name}, unreadable",
            10 * MINUTE,
            changed,
            [("RecordsUnreadable", {"job": "publish"})],
        )
        for name, changed in (
            ("raw", of_publisher("raw_malformed_total", lambda t: float(t > 300))),
            # A reason that was never seen begins as 1.
            (
                "bars",
                of_publisher(
                    "bars_malformed_total", lambda t: 1.0 if t > 300 else None, reason="schema"
                ),
            ),
        )
    ),
]

AUDITED = named("perpflow_audit_last_timestamp_seconds", **AUDIT)


def differing(cause: str) -> dict[str, Value | None]:
    return {named("perpflow_audit_differences", cause=cause, **VENUE, **AUDIT): flat(3)}


AUDITS = [
    Case("bars are wrong", MINUTE, differing("other"), [("AuditMismatch", VENUE)]),
    Case("late ticks are a known cause", MINUTE, differing("late")),
    Case("no audit", 34 * HOUR, {AUDITED: stopped(60)}, [("AuditStalled", AUDIT)], 5 * MINUTE),
    Case("for a day", 30 * HOUR, {AUDITED: stopped(60)}, step=5 * MINUTE),
    Case("there is none", 3 * HOUR, {AUDITED: None}, [("AuditStalled", {"job": "audit"})], 300),
]

STORES = [
    Case(
        "the log refuses",
        5 * MINUTE,
        on_first("perpflow_append_failures_total", rising(0.5)),
        [("LogFailing", {"job": "ingest"})],
    ),
    Case(
        "it did once",
        5 * MINUTE,
        on_first("perpflow_append_failures_total", lambda t: float(t > 120)),
    ),
    Case(
        "the spool is more than half full",
        3 * MINUTE,
        on_first("perpflow_spool_bytes", flat(6e8)),
        [("SpoolFilling", {**FIRST, **VENUE})],
    ),
    Case("it is in use", 3 * MINUTE, on_first("perpflow_spool_bytes", flat(4e8))),
    Case(
        "the spool's disk is full",
        10 * MINUTE,
        on_first("perpflow_spool_failures_total", lambda t: float(t > 300)),
        [("SpoolBroken", {"instance": COLLECTORS[0]})],
    ),
    Case(
        "the store refuses",
        10 * MINUTE,
        of_publisher("store_operation_errors_total", rising(0.1), operation="put"),
        [("StoreFailing", {"job": "publish"})],
    ),
    Case(
        "it does now and then",
        10 * MINUTE,
        of_publisher("store_operation_errors_total", rising(0.01), operation="put"),
    ),
    Case("one request in ten fails", 10 * MINUTE, requests(1.0), [("ApiFailing", {})]),
    Case("one in a hundred", 10 * MINUTE, requests(0.1)),
]
CASES = [*UP, *FRESH, *COMPLETE, *RIGHT, *AUDITS, *STORES]
