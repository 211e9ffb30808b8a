"""The venues' instrument lists on disk, so that a collector starts while a REST API is down.

One JSON file per exchange beside the log, replaced as a whole at every fetch:

    {"schema": 1, "exchange": …, "url": …, "dexes": […], "fetched_ns": …,
     "listed": [{"native": …, "symbol": …, "contract_size": …, "inverse": …, "status": …}, …]}
"""

import os
from pathlib import Path
from typing import Any

import orjson
import structlog

from ingest.instruments import Instrument, Listed
from ingest.universe import InstrumentList
from ingest.words import shown, words

SCHEMA = 1

_log = structlog.get_logger(__name__)


def cache_path(log_path: Path, exchange: str) -> Path:
    """perpflow.binance-futures.instruments.json beside perpflow.db."""
    return log_path.with_name(f"{log_path.stem}.{exchange}.instruments.json")


def save(path: Path, found: InstrumentList) -> None:
    """Replace the file; a failure is told and nothing more, as the list itself is at hand."""
    body = {
        "schema": SCHEMA,
        "exchange": found.exchange,
        "url": found.url,
        "dexes": found.dexes,
        "fetched_ns": found.fetched_ns,
        "listed": [_entry(item) for item in found.listed],
    }
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(orjson.dumps(body, option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        _log.error("can't keep the instruments", file=str(path), error=str(error))


def load(path: Path, exchange: str, url: str, dexes: tuple[str, ...]) -> InstrumentList | None:
    """What was saved of that REST base and at least those dexes; None if there is nothing of use.

    A file that is not readable is told and passed over: it is only a copy.
    """
    try:
        body = orjson.loads(path.read_bytes())
        if body["schema"] != SCHEMA:
            raise ValueError(f"schema {shown(body['schema'])}")
        found = InstrumentList(
            words(body["exchange"]),
            words(body["url"]),
            tuple(words(dex) for dex in body["dexes"]),
            int(body["fetched_ns"]),
            tuple(_listed(body["exchange"], entry) for entry in body["listed"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        _log.warning("the kept instruments can't be read", file=str(path), error=reason)
        return None
    same = (found.exchange, found.url) == (exchange, url) and set(dexes) <= set(found.dexes)
    return found if same else None


def _entry(item: Listed) -> dict[str, Any]:
    instrument = item.instrument
    return {
        "native": instrument.native,
        "symbol": instrument.symbol,
        "contract_size": instrument.contract_size,
        "inverse": instrument.inverse,
        "status": item.status,
    }


def _listed(exchange: str, entry: dict[str, Any]) -> Listed:
    size = float(entry["contract_size"])
    if not 0.0 < size < float("inf") or not isinstance(entry["inverse"], bool):
        raise ValueError(f"not an instrument: {shown(entry)}")
    native, symbol, status = entry["native"], entry["symbol"], entry["status"]
    if not all(isinstance(text, str) for text in (native, symbol, status)):
        raise ValueError(f"not an instrument: {shown(entry)}")
    return Listed(Instrument(exchange, native, symbol, size, entry["inverse"]), status)
