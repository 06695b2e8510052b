"""SQL databases: SQLite by default, PostgreSQL by URL; schemas by Alembic."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command, context
from alembic.config import Config
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

_READ_ONLY = "diapason_read_only"


class Database:
    """Sessions over one engine. Methods block: call them from a thread, not from the event loop."""

    def __init__(self, url: str) -> None:
        self.engine = _open(url)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        self._reading = sessionmaker(self.engine.execution_options(**{_READ_ONLY: True}), expire_on_commit=False)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one consistent state and writes nothing."""
        with self._reading() as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction, committed at the end of the block or rolled back by an exception.

        On SQLite writers take turns from the first statement on, so that a transaction that
        reads before it writes never fails half-way on a lock.
        """
        with self._sessions.begin() as session:
            yield session

    def migrate(self, scripts: Path) -> None:
        """Bring the schema to the newest revision in ``scripts``. Safe to run from several processes."""
        config = Config()
        config.set_main_option("script_location", str(scripts))
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # SQLite's writers take turns anyway
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7071)"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def run_migrations(metadata: sa.MetaData) -> None:
    """The whole of a service's migrations/env.py: migrate on the connection that `migrate` passed."""
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    context.run_migrations()


def _open(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # BEGIN is ours to send, see below
    # FULL: a commit has reached the disk before it is acknowledged, also when the power fails.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
