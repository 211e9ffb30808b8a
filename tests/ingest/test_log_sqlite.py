"""What is particular to the embedded log: files that are not one."""

import sqlite3
from pathlib import Path

import pytest

from ingest.log import LogError
from ingest.log.sqlite import SqliteLog
from ingest.log.sqlite_file import APPLICATION_ID, SCHEMA_VERSION


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to have a header " * 20)
    with pytest.raises(LogError, match=r"notes\.txt: file is not a database"):
        SqliteLog(path)


def test_a_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (x)")
    with pytest.raises(LogError, match=r"other\.db: an SQLite database, but not a perpflow log"):
        SqliteLog(path)


def test_a_log_of_a_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "newer.db"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(LogError, match=r"newer\.db: written by a newer perpflow"):
        SqliteLog(path)


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"no directory .*missing"):
        SqliteLog(tmp_path / "missing" / "log.db")


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="unable to open database file"):
        SqliteLog(tmp_path)
