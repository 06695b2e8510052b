"""From a batch's plan to points with their vectors, whatever some of the texts are like."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import structlog

from diapason.vectors import Matrix
from services.kit.errors import DeadlineExceeded, InvalidArgument, Overloaded, ServiceError, Unavailable
from services.search.adapters.words import Words
from services.search.domain.model import Document, Index, Span
from services.search.planning import Plan
from services.search.ports import Embedder, Point

log = structlog.get_logger()

# These pass by themselves: to try again is all there is to do.
PASSING = (Unavailable, Overloaded, DeadlineExceeded)
# A fault of the embedder's may pass too; after so many in a row the texts are tried one by one.
_TRIES = 5
_PROBE = "probe"
# Texts so short that they are one passage under any settings.
_NEVER_SPLIT_BYTES = 12


@dataclass(frozen=True)
class Vectorized:
    """The points to write with their vectors (rows), and the documents that can't be embedded."""

    points: list[Point]
    rows: Matrix
    refused: set[str]


@dataclass(frozen=True)
class _Rows:
    """By the text's position: vectors, and whether it was cut. Texts that can't be embedded have none."""

    rows: dict[int, Matrix]
    truncated: dict[int, bool]

    def at(self, places: Sequence[int]) -> "_Rows":
        """The same, of texts that stand at these places."""
        rows = {places[i]: row for i, row in self.rows.items()}
        return _Rows(rows, {places[i]: cut for i, cut in self.truncated.items()})


class Vectorizer:
    """Embeds texts for one index, with exactly its version."""

    def __init__(self, index: Index, embedder: Embedder, words: Words | None) -> None:
        self._index, self._embedder, self._words = index, embedder, words
        self._faults = 0

    async def spans(self, documents: Sequence[Document]) -> dict[str, list[Span]]:
        """The passages of those documents that are split."""
        settings = self._index.settings.passages
        long = [d for d in documents if settings and len(d.passage.encode()) > _NEVER_SPLIT_BYTES]
        if settings is None or not long:
            return {}
        texts = [document.passage for document in long]
        cut = await self._embedder.split(self._index.version, texts, settings.max_tokens, settings.overlap_tokens)
        return {d.id: spans for d, spans in zip(long, cut, strict=True) if len(spans) > 1}

    async def vectorize(self, plan: Plan) -> Vectorized:
        """All points of a plan, but for documents of which a text can't be embedded."""
        nothing = np.empty((0, self._index.dimension), np.float32)
        if not plan.texts:
            return Vectorized([], nothing, set())
        # Texts of the same length are computed together with the least padding.
        order = sorted(range(len(plan.texts)), key=lambda i: len(plan.texts[i]))
        found = (await self._embed([plan.texts[i] for i in order])).at(order)
        refused = {point.document_id for i, point in enumerate(plan.points) if i not in found.rows}
        places = [i for i, point in enumerate(plan.points) if point.document_id not in refused]
        truncated = {plan.points[i].document_id for i, cut in found.truncated.items() if cut}
        points = [replace(plan.points[i], truncated=plan.points[i].document_id in truncated) for i in places]
        if self._words:
            weights = await asyncio.to_thread(self._words.documents, [plan.texts[i] for i in places])
            points = [replace(point, words=weight) for point, weight in zip(points, weights, strict=True)]
        rows = np.stack([found.rows[i] for i in places]) if places else nothing
        return Vectorized(points, rows, refused)

    async def _embed(self, texts: Sequence[str]) -> _Rows:
        try:
            answer = await self._embedder.documents(self._index.version, texts)
            self._faults = 0
        except PASSING:
            raise
        except ServiceError as error:
            if not isinstance(error, InvalidArgument):
                self._faults += 1
                if self._faults <= _TRIES:
                    raise
            if len(texts) == 1:
                # Only if others can be is it the text's fault; else this raises, and nothing is left out.
                await self._embedder.documents(self._index.version, [_PROBE])
                log.exception("a text can't be embedded", index=self._index.id)
                return _Rows({}, {})
            alone = [await self._embed([text]) for text in texts]
            good = [i for i, part in enumerate(alone) if part.rows]
            return _Rows({i: alone[i].rows[0] for i in good}, {i: alone[i].truncated[0] for i in good})
        if answer.version.digest != self._index.version.digest:
            raise ServiceError("the embedder used another version than asked for")
        for i, reason in answer.failures.items():
            log.error("a text can't be embedded", index=self._index.id, reason=reason, characters=len(texts[i]))
        good = [i for i in range(len(texts)) if i not in answer.failures]
        return _Rows(dict(zip(good, answer.vectors, strict=True)), dict(zip(good, answer.truncated, strict=True)))
