"""Writers take turns, on every database."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.kit.sql import Database

_LOCK = 7073


@contextmanager
def in_turn(database: Database) -> Iterator[Session]:
    """A transaction that no other writer's overlaps, on SQLite by itself, on PostgreSQL by a lock.

    So numbers become visible in their order, which is what makes a snapshot by number whole; a key that is not there
    stays away until the transaction ends; and no two batches wait for each other.
    """
    with database.writing() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        yield session
