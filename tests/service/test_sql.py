"""What the kit promises of SQL, on SQLite and on a real PostgreSQL."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import sqlalchemy as sa

from services.kit.errors import InvalidArgument
from services.kit.sql import Database, retried
from tests.support import postgres as postgresql

THINGS = sa.Table(
    "things", sa.MetaData(), sa.Column("name", sa.String, primary_key=True), sa.Column("number", sa.Integer)
)


def made(url: str) -> Iterator[Database]:
    database = Database(url)
    THINGS.create(database.engine)
    with database.writing() as session:
        session.execute(sa.insert(THINGS), [{"name": name, "number": 0} for name in ("a", "b")])
    yield database
    database.close()


@pytest.fixture
def database(catalog_url: str) -> Iterator[Database]:
    yield from made(catalog_url)


@pytest.fixture
def postgres_database(postgres: str) -> Iterator[Database]:
    yield from made(postgresql.fresh_database(postgres))


def test_what_reads_several_times_sees_one_state(database: Database) -> None:
    numbers = sa.select(THINGS.c.number).order_by(THINGS.c.name)
    with database.reading() as session:
        before = session.scalars(numbers).all()
        with database.writing() as other:
            other.execute(sa.update(THINGS).values(number=1))
        assert session.scalars(numbers).all() == before == [0, 0]
    with database.reading() as session:
        assert session.scalars(numbers).all() == [1, 1]


def test_as_many_connections_as_threads_want(database: Database) -> None:
    with ExitStack() as stack:
        for _ in range(32):
            assert stack.enter_context(database.reading()).scalar(sa.select(1)) == 1


def test_of_two_that_lock_each_other_out_both_are_carried_out(postgres_database: Database) -> None:
    both_began = threading.Barrier(2)
    tries: list[str] = []

    @retried
    def count(first: str, second: str) -> None:
        with postgres_database.writing() as session:
            for name in (first, second):
                session.execute(sa.update(THINGS).where(THINGS.c.name == name).values(number=THINGS.c.number + 1))
                if name == first and first not in tries:
                    tries.append(first)
                    both_began.wait(10)

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(count, "a", "b"), threads.submit(count, "b", "a")]:
            done.result(30)
    with postgres_database.reading() as session:
        assert session.scalars(sa.select(THINGS.c.number)).all() == [2, 2]


def test_a_name_with_nul_is_the_caller_s_mistake(postgres_database: Database) -> None:
    with pytest.raises(InvalidArgument, match=r"NUL character in 'a\\x00b'"), postgres_database.reading() as session:
        session.scalar(sa.select(THINGS.c.number).where(THINGS.c.name == "a\0b"))
    with pytest.raises(InvalidArgument, match="NUL"), postgres_database.writing() as session:
        session.execute(sa.insert(THINGS), [{"name": name, "number": 0} for name in ("c", "d\0")])
