"""The file of the embedded log: its schema and version, connections to it, and short questions."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ingest.log import LogError

SCHEMA_VERSION = 1
APPLICATION_ID = 0x70657270
"""`perp` in SQLite's header, so that another program's database is never taken for a log."""
BUSY_TIMEOUT_S = 30.0
RETRY_S = 0.02
WAL_CHECKPOINT_PAGES = 4096

_SCHEMA = (
    "CREATE TABLE partitions (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, number INTEGER NOT NULL,"
    " first INTEGER NOT NULL DEFAULT 0, next INTEGER NOT NULL DEFAULT 0,"
    " bytes INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, number))",
    "CREATE TABLE owners (name TEXT, number INTEGER, epoch INTEGER NOT NULL,"
    " PRIMARY KEY (name, number)) WITHOUT ROWID",
    "CREATE TABLE state (name TEXT, number INTEGER, key TEXT, value BLOB NOT NULL,"
    " PRIMARY KEY (name, number, key))",
    "CREATE TABLE positions (name TEXT, number INTEGER, topic TEXT, partition INTEGER,"
    " next INTEGER NOT NULL, PRIMARY KEY (name, number, topic, partition)) WITHOUT ROWID",
)


def connect(path: Path) -> sqlite3.Connection:
    if not path.parent.is_dir():
        raise LogError(f"log {path}: no directory {path.parent}")
    db = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        with transaction(db):
            _open(db, path)
        _use_wal(db)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}")
    except BaseException:
        db.close()
        raise
    return db


def _open(db: sqlite3.Connection, path: Path) -> None:
    """Check that the file is a log of our version, or make it one if it is empty."""
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if application == APPLICATION_ID:
        if version > SCHEMA_VERSION:
            raise LogError(
                f"log {path}: written by a newer perpflow (log version {version}, this one reads"
                f" up to {SCHEMA_VERSION}): upgrade perpflow"
            )
        return
    if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise LogError(f"log {path}: an SQLite database, but not a perpflow log")
    for statement in _SCHEMA:
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _use_wal(db: sqlite3.Connection) -> None:
    """Switch to WAL; SQLite's busy timeout does not cover two processes that do it at once."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)


@contextmanager
def transaction(db: sqlite3.Connection, mode: str = "IMMEDIATE") -> Iterator[None]:
    db.execute(f"BEGIN {mode}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # Some errors (a full disk) have already rolled back.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def partition_count(db: sqlite3.Connection, topic: str) -> int:
    row = db.execute("SELECT count(*) FROM partitions WHERE topic = ?", (topic,)).fetchone()
    return int(row[0])


def offset_at(db: sqlite3.Connection, table: int, time_ns: int) -> int:
    found = db.execute(
        f"SELECT offset FROM records_{table} WHERE appended_ns >= ? ORDER BY offset LIMIT 1",
        (time_ns,),
    ).fetchone()
    return int(found[0]) if found else bounds(db, table)[1]


def bounds(db: sqlite3.Connection, table: int) -> tuple[int, int]:
    row = db.execute("SELECT first, next FROM partitions WHERE id = ?", (table,)).fetchone()
    return int(row[0]), int(row[1])


def data_version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA data_version").fetchone()[0])
