"""Contestant: the same rows into SQLite with nothing around it. `… bare`."""

import sqlite3
import tempfile
import time
from pathlib import Path

from benchmarks.players import serve

_TABLE = """CREATE TABLE feedback (number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE, collection TEXT,
search_id TEXT, query TEXT, query_key TEXT, document_id TEXT, signal TEXT, value REAL, actor TEXT, tenant TEXT,
client TEXT, reason TEXT, time INTEGER, at TEXT)"""
_INDEXES = "collection, query_key, number", "actor", "search_id", "time"


def insert(batch: int, batches: int) -> float:
    """Events per second: so many transactions of so many rows, each on the disk before the next begins."""
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(_TABLE)
        for number, columns in enumerate(_INDEXES):
            database.execute(f"CREATE INDEX i{number} ON feedback ({columns})")
        into = "INSERT INTO feedback VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        started = time.perf_counter()
        for number in range(batches):
            database.execute("BEGIN IMMEDIATE")
            database.executemany(into, [_row(f"{number}-{i}") for i in range(batch)])
            database.execute("COMMIT")
        seconds = time.perf_counter() - started
        database.close()
    return batch * batches / seconds


def _row(key: str) -> tuple[object, ...]:
    query = f"query {hash(key) % 5_000}"
    return (
        key, "films", None, query, f"{hash(query) & (2**128 - 1):032x}", f"d{hash(key) % 997}", "thumbs_up", None,
        f"u{hash(key) % 1_000}", "", "bench", "", 1_790_000_000_000, "2026-11-21 12:00:00.000000",
    )  # fmt: skip


if __name__ == "__main__":
    serve({"insert": insert})
