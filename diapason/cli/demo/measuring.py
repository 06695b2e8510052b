"""What the demo measures from outside, through the same calls that any backend makes."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diapason.cli.demo.samples import Query
from diapason.client import Client
from diapason.common.v1.version_pb2 import VersionRef
from diapason.errors import DiapasonError
from diapason.search.v1.search_pb2 import SearchResponse

METRICS = ("ndcg@10", "mrr@10", "recall@5")
_DEPTH = 10
_RESAMPLES = 5_000
# Scores of one text pair in differently padded bf16 batches lie within this; those of two
# versions, or of a query and a document from different versions, seldom do.
SCORE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Ranking:
    """What one query brought up: ids and titles of ten documents, and the rank of the right one, 0 if none."""

    query: Query
    ids: tuple[str, ...]
    titles: tuple[str, ...]
    rank: int


def rank_all(
    client: Client, collection: str, queries: Sequence[Query], dimensions: int, step: Callable[[], None]
) -> list[Ranking]:
    """Search for every query."""
    rankings = []
    for query in queries:
        results = client.search(collection, query.text, _DEPTH, dimensions).results
        ids = tuple(result.id for result in results)
        rank = ids.index(query.document) + 1 if query.document in ids else 0
        rankings.append(Ranking(query, ids, tuple(result.title for result in results), rank))
        step()
    return rankings


def per_query(metric: str, rankings: Sequence[Ranking]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One score for each query. With one right document nDCG@10 is 1 / log2(rank + 1)."""

    def score(rank: int) -> float:
        if not rank:
            return 0.0
        return {"ndcg@10": 1 / math.log2(rank + 1), "mrr@10": 1 / rank, "recall@5": float(rank <= 5)}[metric]

    return np.array([score(ranking.rank) for ranking in rankings])


def means(rankings: Sequence[Ranking]) -> dict[str, float]:
    """All metrics over all queries."""
    return {metric: float(per_query(metric, rankings).mean()) for metric in METRICS}


def difference(before: Sequence[Ranking], after: Sequence[Ranking]) -> dict[str, float]:
    """The mean paired difference of nDCG@10, with its 95 % bootstrap interval."""
    differences = per_query("ndcg@10", after) - per_query("ndcg@10", before)
    picks = np.random.default_rng(17).integers(len(differences), size=(_RESAMPLES, len(differences)))
    low, high = np.percentile(differences[picks].mean(axis=1), [2.5, 97.5])
    return {"ndcg@10": float(differences.mean()), "low": float(low), "high": float(high)}


@dataclass(frozen=True)
class Sample:
    """One search of the background client. ``at`` in seconds since the epoch, ``seconds`` it took."""

    query: str
    at: float
    seconds: float
    answer: SearchResponse | None
    error: str


class BackgroundSearcher:
    """Clients that keep searching until told to stop, each call noted."""

    def __init__(self, client: Client, collection: str, queries: Sequence[Query], threads: int = 2) -> None:
        self._client = client
        self._collection = collection
        self._queries = queries
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._search, args=(i,), daemon=True) for i in range(threads)]
        self.samples: list[Sample] = []

    @property
    def started(self) -> bool:
        """Whether it has begun."""
        return self._threads[0].ident is not None

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, once the calls in flight are answered."""
        self._stop.set()
        for thread in self._threads:
            if self.started:
                thread.join()

    def _search(self, offset: int) -> None:
        number = offset
        while not self._stop.is_set():
            query = self._queries[number % len(self._queries)]
            number += len(self._threads)
            at, started = time.time(), time.perf_counter()
            answer, error = None, ""
            try:
                answer = self._client.search(self._collection, query.text, 5)
            except DiapasonError as problem:
                error = problem.message
            self.samples.append(Sample(query.text, at, time.perf_counter() - started, answer, error))
            # A steady load, not a flood: the swap shares the cores with it.
            self._stop.wait(0.005)


def mismatched(client: Client, samples: Sequence[Sample]) -> int:
    """Searches whose answer can't have come from one version.

    Either the response contradicts itself or the record of routes, or its scores are not those
    that the version it names gives: queries and documents are embedded again, with exactly that
    version, and compared.
    """
    answered = [(sample.query, sample.answer) for sample in samples if sample.answer]
    if not answered:
        return 0
    answers = [answer for _, answer in answered]
    routes = {(r.generation, r.index): r.encoder.digest for r in client.routes(answers[0].route.collection)}
    versions = {answer.route.encoder.digest: answer.route.encoder for answer in answers}
    texts = _passages(answers)
    queries = sorted({query for query, _ in answered})
    known = {digest: _Vectors(client, ref, queries, texts) for digest, ref in versions.items()}
    wrong = 0
    for query, answer in answered:
        digest = answer.route.encoder.digest
        consistent = (
            answer.query_version.digest == digest
            and routes.get((answer.route.generation, answer.route.index)) == digest
            and known[digest].agrees(query, answer)
        )
        wrong += not consistent
    return wrong


def _passages(answers: Sequence[SearchResponse]) -> dict[str, str]:
    return {r.id: f"{r.title}\n{r.text}" if r.title else r.text for answer in answers for r in answer.results}


class _Vectors:
    """The vectors of some queries and documents under one version."""

    def __init__(self, client: Client, version: VersionRef, queries: list[str], passages: dict[str, str]) -> None:
        self._queries = dict(zip(queries, _embed(client, version, queries, True), strict=True))
        self._documents = dict(zip(passages, _embed(client, version, list(passages.values()), False), strict=True))

    def agrees(self, query: str, answer: SearchResponse) -> bool:
        """Whether every score of the answer is the cosine of these vectors."""
        vector = self._queries[query]
        return all(abs(float(vector @ self._documents[r.id]) - r.score) <= SCORE_TOLERANCE for r in answer.results)


def _embed(client: Client, version: VersionRef, texts: list[str], query: bool) -> list[Any]:
    rows: list[Any] = []
    for start in range(0, len(texts), 64):
        rows.extend(client.embed(version, texts[start : start + 64], query))
    return rows
