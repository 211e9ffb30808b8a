"""A collector's process killed with -9 while another process holds the log: nothing is lost."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from pathlib import Path

from websockets.asyncio.server import ServerConnection

from ingest.instruments import BINANCE
from ingest.log.sqlite import SqliteLog
from tests.ingest.collecting import acknowledge, collected, trade, trade_ids, until, venue_server

COLLECT = """
import asyncio, sys
from pathlib import Path
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.instruments import BINANCE
from ingest.log.sqlite import SqliteLog
from tests.ingest.collecting import instruments

async def main(url, directory):
    log = SqliteLog(directory / "log.db")
    settings = CollectorSettings(BINANCE, ws_url=url, spool_dir=directory / "spool")
    await Collector(settings, instruments(), log, 1, ArrivalClock()).run()

asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
"""


async def start(port: int, directory: Path) -> asyncio.subprocess.Process:
    arguments = ("-c", COLLECT, f"ws://127.0.0.1:{port}", str(directory))
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.DEVNULL
    )


async def test_a_collector_killed_while_the_log_is_locked_loses_nothing(tmp_path: Path) -> None:
    sent = 0
    locked = asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        nonlocal sent
        await acknowledge(connection)
        await locked.wait()
        while sent < 300:
            sent += 1
            await connection.send(trade(sent), text=True)
        await connection.wait_closed()

    spool = tmp_path / "spool" / f"{BINANCE}.c1"

    def on_disk() -> bytes:
        return b"".join(path.read_bytes() for path in sorted(spool.glob("*.spool")))

    async with venue_server(handler) as port:
        process = await start(port, tmp_path)
        try:
            await until(lambda: b"session-start" in _logged(tmp_path), "the session on the log")
            lock = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")
            locked.set()
            await until(lambda: sent == 300 and on_disk().count(b'"trades"') > 0, "spooled")
            # Promises go on being spooled, so what was received before one is before it.
            await until(lambda: _promises_after_the_last_trades(on_disk()) >= 2, "promises")
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            lock.execute("ROLLBACK")
            lock.close()
            process = await start(port, tmp_path)
            await until(lambda: not list(spool.glob("*.spool")), "the spool appended")
            await until(lambda: _sessions_started(tmp_path) == 2, "the next session")
        finally:
            locked.set()
            process.kill()
            await process.wait()
    log = SqliteLog(tmp_path / "log.db")
    records = await collected(log, 1)
    await log.close()
    assert trade_ids(records) == list(range(1, 301))
    sessions = [r.headers["session"] for r in records["ticks.trades", 0]]
    assert sessions == sorted(sessions)
    assert len(set(sessions)) == 2
    numbers = [int(r.headers["seq"]) for r in records["ticks.trades", 0]]
    assert numbers[: sessions.count(sessions[0])] == list(range(sessions.count(sessions[0])))


def _promises_after_the_last_trades(spooled: bytes) -> int:
    return spooled[spooled.rfind(b'"type":"trades"') :].count(b'"type":"punctuation"')


def _sessions_started(directory: Path) -> int:
    with contextlib.closing(sqlite3.connect(directory / "log.db")) as db:
        (table,) = db.execute("SELECT id FROM partitions WHERE topic = 'ticks.trades'").fetchone()
        starts = f"SELECT count(*) FROM records_{table} WHERE CAST(headers AS TEXT) LIKE ?"
        (found,) = db.execute(starts, ('%"session-start"%',)).fetchone()
    return int(found)


def _logged(directory: Path) -> bytes:
    found = b""
    for path in directory.glob("log.db*"):
        with contextlib.suppress(FileNotFoundError):  # SQLite's journal comes and goes
            found += path.read_bytes()
    return found
