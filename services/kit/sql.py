"""SQL databases: SQLite by default, PostgreSQL by URL; schemas by Alembic."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa
from alembic import command, context
from alembic.config import Config
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from services.kit.errors import InvalidArgument, Violation

_CLOSE_SECONDS = 5.0
_READ_ONLY = "diapason_read_only"
# Connections beyond those that are kept open: the threads that use them are a bound, and none should wait.
_UNBOUNDED = -1
# What PostgreSQL calls a transaction that it ended so that another could go on, and how often one is tried.
_ENDED_FOR_ANOTHER = ("40001", "40P01")
_TRIES = 4

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """Sessions over one engine. Methods block: call them from a thread, not from the event loop."""

    def __init__(self, url: str) -> None:
        self.engine = _open(url)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        # In SQLite a transaction sees one state by itself.
        one_state = {} if self.engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        reading = self.engine.execution_options(**{_READ_ONLY: True}, **one_state)
        self._reading = sessionmaker(reading, expire_on_commit=False)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one consistent state and writes nothing."""
        with self._reading() as session:
            yield session

    @contextmanager
    def connecting(self) -> Iterator[sa.Connection]:
        """For plain rows by one statement: what a hot path reads needs no objects."""
        with self.engine.connect().execution_options(**{_READ_ONLY: True}) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction, committed at the end of the block or rolled back by an exception.

        On SQLite writers take turns from the first statement on, so that a transaction that
        reads before it writes never fails half-way on a lock.
        """
        with self._sessions.begin() as session:
            yield session

    @contextmanager
    def in_turn(self, lock: int) -> Iterator[Session]:
        """A writing transaction that none other of the same lock overlaps; SQLite needs no lock for that.

        So what is not there when it looks stays away until it ends, and numbers become visible in their order, which is
        what makes a snapshot by number whole.
        """
        with self.writing() as session:
            if self.engine.dialect.name == "postgresql":
                session.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))
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
        """Close all connections, once threads whose callers have gone are done with theirs."""
        ends = time.monotonic() + _CLOSE_SECONDS
        pool = self.engine.pool
        while isinstance(pool, sa.QueuePool) and pool.checkedout() and time.monotonic() < ends:
            time.sleep(0.01)
        self.engine.dispose()


def retried(transaction: Callable[P, T]) -> Callable[P, T]:
    """A function that is one writing transaction, carried out again if the database ended it for another's sake."""

    @functools.wraps(transaction)
    def carried_out(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_TRIES - 1):
            try:
                return transaction(*args, **kwargs)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _ENDED_FOR_ANOTHER:
                    raise
        return transaction(*args, **kwargs)

    return carried_out


def run_migrations(metadata: sa.MetaData) -> None:
    """The whole of a service's migrations/env.py: migrate on the connection that `migrate` passed."""
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    context.run_migrations()


def _open(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = sa.create_engine(parsed, pool_pre_ping=True, max_overflow=_UNBOUNDED)
        event.listen(engine, "handle_error", _refuse_nul)
        return engine
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed, max_overflow=_UNBOUNDED)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _refuse_nul(context: sa.engine.ExceptionContext) -> None:
    """PostgreSQL has no NUL in texts, so nothing has such a name; whoever asked for it should know."""
    if "NUL (0x00)" in str(context.original_exception):
        sets: Any = context.parameters if isinstance(context.parameters, list) else [context.parameters]
        values = [value for one in sets for value in dict(one or {}).values()]
        named = next((value for value in values if isinstance(value, str) and "\0" in value), "")
        refused = Violation("request", f"has a NUL character in {named[:100]!r}; leave it out")
        raise InvalidArgument(refused) from context.original_exception


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # BEGIN is ours to send, see below
    # FULL: a commit has reached the disk before it is acknowledged, also when the power fails.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
