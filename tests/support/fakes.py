"""Stand-ins for other services, for tests of what search makes of their answers."""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from diapason import vectors
from diapason.vectors import Matrix
from services.kit import context as request_context
from services.kit.errors import InvalidArgument, NotFound, Violation
from services.kit.sql import Database
from services.search.__main__ import MIGRATIONS
from services.search.adapters.catalog import Catalog
from services.search.adapters.edge import EdgeEngine
from services.search.application import Search
from services.search.domain.model import Document, Encoder, ReindexState, Version
from services.search.ports import Embedded, Impression

DIMENSION = 32
OLD, NEW = Version("tiny", 1, "a" * 64), Version("tiny", 2, "b" * 64)


class PlantedEmbedder:
    """Vectors that show their version: each version has its own half of the space.

    Within one version equal texts have cosine 1; across versions every cosine is 0.
    """

    def __init__(self) -> None:
        self.versions = [OLD, NEW]
        self.answers_with: Version | None = None
        self.failure: Exception | None = None
        self.refused: set[str] = set()
        self.embedded: list[str] = []
        self.time_left = 0.0

    async def query(self, version: Version, text: str, dimensions: int) -> Embedded:
        found = await self.documents(version, [text])
        return Embedded(found.version, vectors.truncated(found.vectors, dimensions), found.truncated)

    async def documents(self, version: Version, texts: Sequence[str]) -> Embedded:
        if self.failure:
            raise self.failure
        if any(text in self.refused for text in texts):
            raise InvalidArgument(Violation("texts", "is refused"))
        self.embedded += texts
        self.time_left = request_context.remaining(1000)
        rows = np.concatenate([self._vector(version, text) for text in texts])
        return Embedded(self.answers_with or version, rows, [len(text) > 1000 for text in texts])

    async def resolve(self, model: str, number: int, digest: str) -> Encoder:
        for version in reversed(self.versions):
            if digest == version.digest or (not digest and model == version.model and number in (0, version.number)):
                return Encoder(version, DIMENSION, (DIMENSION, 16))
        raise NotFound("encoder version", model or digest, "none like it")

    def _vector(self, version: Version, text: str) -> Matrix:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        half = np.random.default_rng(seed).normal(size=DIMENSION // 2)
        row = np.zeros(DIMENSION, np.float32)
        start = 0 if version.number == 1 else DIMENSION // 2
        row[start : start + DIMENSION // 2] = half / np.linalg.norm(half)
        return row[None]


class Noted:
    """Impressions, kept in a list."""

    def __init__(self) -> None:
        self.impressions: list[Impression] = []

    def record(self, impression: Impression) -> None:
        self.impressions.append(impression)


class Bench:
    """Search over the real engine and a real catalog in one folder, with a planted embedder."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(f"sqlite:///{folder / 'catalog.db'}")
        self.database.migrate(MIGRATIONS)
        self.catalog = Catalog(self.database)
        self.embedder, self.noted = PlantedEmbedder(), Noted()
        self.engine = EdgeEngine(folder / "indexes")
        self.search = Search(self.catalog, self.engine, self.embedder, self.noted)

    async def close(self) -> None:
        await self.search.close()
        self.database.close()


FILMS = [Document(f"d{i}", f"text number {i}", "", {"n": i}) for i in range(50)]


async def caught_up(bench: Bench, reindex_id: str) -> str:
    """Wait until a reindex has caught up; returns its index."""
    async with asyncio.timeout(20):
        while True:
            reindex, _ = await bench.search.reindex(reindex_id)
            if reindex.state is ReindexState.CAUGHT_UP:
                return reindex.index
            await asyncio.sleep(0.02)


async def rolled_out(bench: Bench) -> str:
    """Reindex to the new version and switch; returns the index."""
    reindex, _ = await bench.search.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(bench, reindex.id)
    await bench.search.switch("films", index, 1)
    return index


async def best(bench: Bench, query: str) -> str:
    """The first result, which must be an exact match under one version."""
    found = await bench.search.search("films", query, 3, 0, "")
    hit, _ = found.hits[0]
    assert hit.score == pytest.approx(1.0, abs=1e-4), "query and document are not of the same version"
    return hit.document_id
