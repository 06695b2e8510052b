"""Search over the real engine, with fifty documents."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.search.domain.model import Settings
from tests.support import postgres as postgresql
from tests.support.fakes import FILMS, Bench
from tests.support.jobs import Store, opened
from tests.support.terminal import Command


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.open()
    await made.collections.create("films", ("tiny", 1, ""), Settings((16,), retention=3600))
    await made.writing.write("films", FILMS)
    yield made
    await made.close()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgresql.running(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    return postgresql.fresh_database(request.getfixturevalue("postgres"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from opened(f"sqlite:///{tmp_path / 'trainer.db'}")


@pytest.fixture
def each_store(catalog_url: str) -> Iterator[Store]:
    """The same on a database of each kind."""
    yield from opened(catalog_url)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)
