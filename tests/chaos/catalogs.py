"""A catalog for each seed: a file of its own on SQLite, a database of its own elsewhere."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from tests.chaos.oracle import Violation

_PATIENCE_SECONDS = 30.0
_POLL_SECONDS = 0.01
_NAMES = "diapason_chaos_"


@dataclass(frozen=True)
class Catalog:
    """Where catalogs are made. ``url`` names a PostgreSQL server and a database to connect to; empty for SQLite."""

    url: str = ""

    @contextmanager
    def fresh(self, folder: Path) -> Iterator[str]:
        """The URL of an empty catalog, dropped after the block."""
        if not self.url:
            yield f"sqlite:///{folder / 'catalog.db'}"
            return
        name = _NAMES + uuid.uuid4().hex
        self._execute(f"CREATE DATABASE {name}")
        try:
            yield sa.make_url(self.url).set(database=name).render_as_string(hide_password=False)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def wait_for_the_dead(self, catalog_url: str) -> None:
        """Return once the server has noticed that a killed process is gone, and so carries out no more for it."""
        if not self.url:
            return
        name = sa.make_url(catalog_url).database
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._execute(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"):
            if time.monotonic() > deadline:
                raise Violation(f"connections of a dead process stay open for {_PATIENCE_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)

    def _execute(self, statement: str) -> int:
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            result = connection.execute(sa.text(statement))
            return int(result.scalar_one()) if result.returns_rows else 0
