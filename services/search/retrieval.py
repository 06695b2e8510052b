"""Searching: from a request to the documents shown."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from diapason.vectors import Matrix
from services.kit.context import remaining
from services.kit.errors import FailedPrecondition, InvalidArgument, ServiceError, Violation
from services.kit.gather import Gather
from services.search import metrics
from services.search.adapters.points import CANDIDATES
from services.search.domain import asking, ranking
from services.search.domain.asking import Ask, Page, Words
from services.search.domain.model import Document, Hit, Route, Span, Version
from services.search.domain.ranking import Parts
from services.search.ports import Embedded, Fusion, Impression, Impressions, IndexGone, Query, Stored
from services.search.state import Live, State
from services.search.writing import check_filter

# Queries that go to the embedder, or ids that are read from SQL, in one call. One call at a time, so that what
# comes meanwhile goes together: twice as many at once are half as large, and cost the embedder half as much again.
_TOGETHER = 32
# Versions whose queries are gathered; those long out of use are forgotten.
_VERSIONS = 16
# Points that are looked through for one page at most.
_MOST_POINTS = 5_000
# Where documents have several passages, so many times as many hits are asked for.
_PASSAGES_EACH = 3
_FUSIONS = {
    Words.RECIPROCAL_RANK: Fusion.RECIPROCAL_RANK,
    Words.DISTRIBUTION_BASED: Fusion.DISTRIBUTION_BASED,
}


@dataclass(frozen=True)
class Result:
    """A document that is shown, by its best passage. Its score is the last stage's."""

    hit: Hit
    document: Document
    parts: Parts | None = None

    @property
    def passage(self) -> str:
        """The text that was found."""
        span = self.span
        return self.document.passage[span.start : span.end] if span else self.document.passage

    @property
    def span(self) -> Span | None:
        """Where that lies; None also while the index has an older text than the document."""
        return self.hit.span if self.hit.span and self.hit.key == self.document.key else None


@dataclass(frozen=True)
class Reranking:
    """What became of the wish to rerank: ``reason`` where it was not granted."""

    version: Version | None
    applied: bool
    candidates: int = 0
    reason: str = ""
    first_stage_share: float = 0.0


@dataclass(frozen=True)
class Found:
    """One answer. Times in seconds."""

    search_id: str
    route: Route
    query_version: Version | None
    results: Sequence[Result]
    first_rank: int = 1
    query_truncated: bool = False
    next_page_token: str = ""
    reranking: Reranking | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class Retrieval:
    """Searches of all collections."""

    def __init__(self, state: State, impressions: Impressions) -> None:
        self._state, self._impressions = state, impressions
        self._embedding: dict[str, Gather[str, tuple[Version, Matrix, bool]]] = {}
        self._reading: Gather[tuple[str, Sequence[str]], dict[str, Document]]
        self._reading = Gather(self._read_documents, _TOGETHER)

    async def search(self, ask: Ask) -> Found:
        """The best documents under the route that serves now."""
        try:
            return await self._search(ask)
        except IndexGone:
            # Another process dropped the index, long after this one should have noticed the switch.
            await self._state.read()
            return await self._search(ask)

    async def _search(self, ask: Ask) -> Found:
        live = await self._state.find(ask.collection)
        asking.check(ask, live.settings)
        if ask.filter:
            check_filter(live, ask.filter)
        page = asking.page(ask)
        self._state.activity.note()
        if page.generation not in (0, live.route.generation):
            live = await self._earlier(live, page)
        clock = _Clock()
        with live.indexer.usage.held():
            query, version, truncated = await self._query(live, ask)
            clock.lap("embed")
            results, more = await self._first_stage(live, ask, page, query)
            clock.lap("query")
            reranking = None
            if ask.rerank:
                results, reranking = await self._rerank(live, ask, results)
                clock.lap("rerank")
            shown = results[page.offset : page.offset + ask.limit]
            if ask.explain:
                shown = await self._explain(live, query, shown, page.offset + ask.limit)
        token = asking.next_token(ask, live.route, page.offset + ask.limit) if more else ""
        # Without a query there is nothing that a judgment could be about.
        search_id = secrets.token_urlsafe(16) if ask.query and not ask.unrecorded else ""
        if search_id:
            hits = [result.hit for result in shown]
            self._impressions.record(Impression(search_id, ask.query, ask.actor, live.route, hits, page.offset + 1))
        clock.lap("rest")
        return Found(search_id, live.route, version, shown, page.offset + 1, truncated, token, reranking, clock.seconds)

    async def _earlier(self, live: Live, page: Page) -> Live:
        """What served the first page, while its index is kept, so that pages neither repeat nor skip."""
        for route in await asyncio.to_thread(self._state.catalog.routes, live.route.collection):
            if route.generation == page.generation and route.index in self._state.indexers:
                return replace(live, route=route, indexer=self._state.indexers[route.index])
        raise FailedPrecondition(
            "PAGE_EXPIRED", live.route.collection, "another version serves now; search again from the first page"
        )

    async def _query(self, live: Live, ask: Ask) -> tuple[Query, Version | None, bool]:
        """What to ask the index, without limits; with the version of the query's vector."""
        vector, version, truncated = None, None, False
        if ask.query.strip() and ask.words is not Words.ONLY:
            version, vector, truncated = await self._embed(live.route.version, ask.query)
            if not version.digest == live.route.version.digest == live.indexer.index.version.digest:
                # Never compare vectors of two versions, whatever went wrong before (I1).
                raise ServiceError("query, route and index do not have the same version")
        if ask.like or ask.unlike:
            vector = ranking.example_vector(
                vector, await self._examples(live, "like", ask.like), await self._examples(live, "unlike", ask.unlike)
            )
        words = live.indexer.words.query(ask.query) if live.indexer.words and ask.words is not Words.NONE else None
        query = Query(
            limit=0,
            vector=vector,
            words=words,
            dimensions=ask.dimensions,
            first_stage=ask.first_stage,
            fusion=_FUSIONS.get(ask.words, Fusion.DISTRIBUTION_BASED),
            filter=ask.filter,
            threshold=ask.threshold,
            exact=ask.exact,
        )
        return query, version, truncated

    async def _embed(self, version: Version, text: str) -> tuple[Version, Matrix, bool]:
        gather = self._embedding.get(version.digest)
        if gather is None:

            async def embed(texts: Sequence[str]) -> list[tuple[Version, Matrix, bool]]:
                answer: Embedded = await self._state.embedder.queries(version, texts)
                return [(answer.version, answer.vectors[i : i + 1], cut) for i, cut in enumerate(answer.truncated)]

            if len(self._embedding) == _VERSIONS:
                self._embedding.pop(next(iter(self._embedding)))
            gather = self._embedding[version.digest] = Gather(embed, _TOGETHER)
        return await gather(text)

    async def _examples(self, live: Live, name: str, ids: Sequence[str]) -> list[Matrix]:
        """A vector for each document: the mean of its passages'."""
        stored = await live.indexer.vectors.stored(ids) if ids else {}
        if missing := [i for i in ids if i not in stored]:
            raise InvalidArgument(Violation(name, f"names {missing[0]!r}, which is not in the index; leave it out"))
        return [_mean(stored[i]) for i in ids]

    async def _first_stage(self, live: Live, ask: Ask, page: Page, query: Query) -> tuple[list[Result], bool]:
        """Documents enough for the page, best first, and whether there are more."""
        ends = max(ask.depth, page.offset + ask.limit)
        examples = {*ask.like, *ask.unlike}
        limit = (ends + 1 + len(examples)) * (_PASSAGES_EACH if live.settings.passages else 1)
        looked_at = ends + 1
        while True:
            found = await live.indexer.ask(replace(query, limit=limit))
            hits = ranking.by_document(found, without=examples)
            documents = await self._reading((ask.collection, [hit.document_id for hit in hits[:looked_at]]))
            # A document deleted a moment ago may still be in the index; it is not shown.
            results = [Result(hit, documents[hit.document_id]) for hit in hits if hit.document_id in documents]
            everything = len(found) < limit or limit >= _MOST_POINTS
            # Where equal scores meet the edge of a page, or of what is reranked, only one order of all of them is
            # the same for every page.
            cut = any(ranking.tied(hits, edge) for edge in {page.offset, page.offset + ask.limit, ask.depth})
            if everything or (len(results) > ends and not cut):
                return results, len(results) > page.offset + ask.limit or (not everything)
            limit = _MOST_POINTS if cut else min(_MOST_POINTS, limit * 2)
            looked_at *= 1 if cut else 2

    async def _read_documents(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[dict[str, Document]]:
        wanted: dict[str, set[str]] = {}
        for collection, ids in asked:
            wanted.setdefault(collection, set()).update(ids)
        read = {}
        for collection, some in wanted.items():
            read[collection] = await asyncio.to_thread(self._state.documents.existing, collection, list(some))
        return [{i: read[name][i] for i in ids if i in read[name]} for name, ids in asked]

    async def _rerank(self, live: Live, ask: Ask, results: list[Result]) -> tuple[list[Result], Reranking]:
        """The first candidates in the reranker's order, the others after them; or all as they were."""
        assert ask.rerank is not None
        version, first = live.route.reranker, results[: ask.rerank.candidates]
        if version is None:
            reason = f"the route of {ask.collection!r} has no reranker; set one by SwitchRoute"
            return results, Reranking(None, applied=False, reason=reason)
        if not first:
            return results, Reranking(version, applied=True)
        try:
            seconds = remaining(ask.rerank.budget)
            async with asyncio.timeout(seconds):
                texts = [result.passage for result in first]
                scored = await self._state.embedder.rerank(version, ask.query, texts, seconds)
        except (ServiceError, TimeoutError) as error:
            reason = error.message if isinstance(error, ServiceError) else "the time budget was not enough"
            metrics.RERANK_SKIPPED.inc()
            return results, Reranking(version, applied=False, reason=reason)
        ranks = {result.hit.document_id: rank for rank, result in enumerate(first, 1)}
        by_id = {result.hit.document_id: result for result in first}
        reranked = []
        share = scored.first_stage_share
        for hit, score, own in ranking.reordered([result.hit for result in first], scored.scores, share):
            parts = Parts(rerank=own, first_stage_rank=ranks[hit.document_id]) if ask.explain else None
            reranked.append(replace(by_id[hit.document_id], hit=replace(hit, score=score), parts=parts))
        applied = Reranking(version, applied=True, candidates=len(first), first_stage_share=share)
        return [*reranked, *results[len(first) :]], applied

    async def _explain(self, live: Live, query: Query, shown: Sequence[Result], depth: int) -> list[Result]:
        """How each score came about, from the lists that it came from."""
        # As many as were fused, or were looked through.
        limit = max(CANDIDATES, depth * (_PASSAGES_EACH if live.settings.passages else 1))
        plain = replace(query, limit=limit, threshold=None)
        dense, words = replace(plain, words=None), replace(plain, vector=None)
        near = ranking.places(await live.indexer.ask(dense) if query.vector is not None else [])
        worded = ranking.places(await live.indexer.ask(words) if query.words else [])
        fused = ranking.places(await live.indexer.ask(plain) if near and worded else [])
        explained = []
        for result in shown:
            name = result.hit.document_id
            score, rank = near.get(name, (None, None))
            weight, place = worded.get(name, (None, None))
            parts = replace(
                result.parts or Parts(),
                dense=score,
                dense_rank=rank,
                bm25=weight,
                bm25_rank=place,
                fused=fused[name][0] if name in fused else None,
            )
            explained.append(replace(result, parts=parts))
        return explained


def _mean(passages: Sequence[Stored]) -> Matrix:
    mean: Matrix = np.mean([passage.vector for passage in passages], axis=0, dtype=np.float32)
    return mean


class _Clock:
    """Seconds of each part of a search."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """What happened since the last lap was this."""
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
