"""Search over the real engine, with fifty documents."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.search.domain.model import Settings
from tests.support.fakes import FILMS, Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.search.open()
    await made.search.create("films", ("tiny", 1, ""), Settings((16,), retention=3600))
    await made.search.write("films", FILMS)
    yield made
    await made.close()
