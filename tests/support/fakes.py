"""Stand-ins for other services, for tests of what search makes of their answers."""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diapason.vectors import Matrix
from services.kit import context as request_context
from services.kit.errors import InvalidArgument, NotFound, Violation
from services.kit.sql import Database
from services.search.__main__ import MIGRATIONS, Search
from services.search.adapters.edge import EdgeEngine
from services.search.domain.asking import Ask
from services.search.domain.model import Document, Encoder, IndexState, ReindexState, Span, Version
from services.search.ports import Embedded, EmbeddedDocuments, Engine, Impression, Scored
from services.search.retrieval import Found

DIMENSION = 32
OLD, NEW = Version("tiny", 1, "a" * 64), Version("tiny", 2, "b" * 64)
JUDGE = Version("judge", 1, "c" * 64)


class PlantedEmbedder:
    """Vectors that show their version: each version has its own half of the space.

    Within one version equal texts have cosine 1; across versions every cosine is 0.
    """

    def __init__(self) -> None:
        self.versions = [OLD, NEW]
        self.answers_with: Version | None = None
        self.failure: Exception | None = None
        self.refused: set[str] = set()
        self.failing: set[str] = set()
        self.slow = False
        self.first_stage_share = 0.0
        self.answering = asyncio.Event()
        self.answering.set()
        self.sizes: tuple[int, ...] = (DIMENSION, 16)
        self.reranked: list[list[str]] = []
        self.embedded: list[str] = []
        self.time_left = 0.0

    async def queries(self, version: Version, texts: Sequence[str]) -> Embedded:
        await self.answering.wait()
        found = await self.documents(version, texts)
        return Embedded(found.version, found.vectors, found.truncated)

    async def documents(self, version: Version, texts: Sequence[str]) -> EmbeddedDocuments:
        if self.failure:
            raise self.failure
        if any(text in self.refused for text in texts):
            raise InvalidArgument(Violation("texts", "is refused"))
        self.embedded += texts
        self.time_left = request_context.remaining(1000)
        good = [text for text in texts if text not in self.failing]
        rows = [self._vector(version, text) for text in good] or [np.empty((0, DIMENSION), np.float32)]
        failures = {i: "is failing" for i, text in enumerate(texts) if text in self.failing}
        truncated = [len(text) > 1000 for text in good]
        return EmbeddedDocuments(self.answers_with or version, np.concatenate(rows), truncated, failures)

    async def split(self, version: Version, texts: Sequence[str], max_tokens: int, overlap: int) -> list[list[Span]]:
        """Passages of ``max_tokens`` characters."""
        starts = [range(0, len(text), max_tokens) for text in texts]
        return [[Span(i, min(i + max_tokens, len(t))) for i in some] for t, some in zip(texts, starts, strict=True)]

    async def rerank(self, version: Version, query: str, texts: Sequence[str], seconds: float) -> Scored:
        """The shorter a text, the better."""
        if self.failure:
            raise self.failure
        if self.slow:
            await asyncio.sleep(seconds * 2)
        self.reranked.append(list(texts))
        return Scored([-float(len(text)) for text in texts], self.first_stage_share)

    async def resolve_reranker(self, model: str, number: int, digest: str) -> Version:
        if (model, number) in (("judge", 0), ("judge", 1)):
            return JUDGE
        raise NotFound("reranker version", model or digest, "none like it")

    async def resolve(self, model: str, number: int, digest: str) -> Encoder:
        for version in reversed(self.versions):
            if digest == version.digest or (not digest and model == version.model and number in (0, version.number)):
                return Encoder(version, DIMENSION, self.sizes, 256)
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

    def __init__(self, folder: Path, url: str = "", engine: Engine | None = None) -> None:
        self.database = Database(url or f"sqlite:///{folder / 'catalog.db'}")
        self.database.migrate(MIGRATIONS)
        self.embedder, self.noted = PlantedEmbedder(), Noted()
        self.engine = engine or EdgeEngine(folder / "indexes")
        self.search = Search(self.database, self.engine, self.embedder, self.noted)
        self.state, self.writing = self.search.state, self.search.writing
        self.collections, self.routing, self.moving = self.search.collections, self.search.routing, self.search.moving
        self.catalog, self.documents = self.state.catalog, self.state.documents
        self._background: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Begin, with what runs beside the service."""
        await self.state.open()
        self._background = [asyncio.create_task(work()) for work in (self.state.keep, self.state.drop_expired)]

    async def close(self) -> None:
        """End as a process does on SIGTERM."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.state.close()
        self.database.close()

    async def found(self, query: str, limit: int = 10, collection: str = "films", **wishes: Any) -> Found:
        """What a search gives."""
        return await self.search.retrieval.search(Ask(collection, query, limit, **wishes))

    async def ids(self, query: str, limit: int = 10, collection: str = "films", **wishes: Any) -> list[str]:
        """The ids of what a search gives, best first."""
        return [r.hit.document_id for r in (await self.found(query, limit, collection, **wishes)).results]

    def index(self, collection: str = "films", state: IndexState = IndexState.SERVING) -> str:
        """The id of the collection's index in that state."""
        [found] = [i.id for i in self.catalog.indexes(collection) if i.state is state]
        return found


FILMS = [Document(f"d{i}", f"text number {i}", "", {"n": i}) for i in range(50)]


async def caught_up(bench: Bench, reindex_id: str) -> str:
    """Wait until a reindex has caught up; returns its index."""
    async with asyncio.timeout(20):
        while True:
            reindex, _ = await bench.routing.reindex(reindex_id)
            if reindex.state is ReindexState.CAUGHT_UP:
                return reindex.index
            await asyncio.sleep(0.02)


async def rolled_out(bench: Bench) -> str:
    """Reindex to the new version and switch; returns the index."""
    reindex, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(bench, reindex.id)
    await bench.routing.switch("films", index, 1)
    return index


async def best(bench: Bench, query: str) -> str:
    """The first result, which must be an exact match under one version."""
    hit = (await bench.found(query, 3)).results[0].hit
    assert hit.score == pytest.approx(1.0, abs=1e-4), "query and document are not of the same version"
    return hit.document_id
