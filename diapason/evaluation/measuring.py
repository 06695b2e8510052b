"""Every query of a data set through the search service, scored."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diapason.client import Client
from diapason.errors import Overloaded
from diapason.evaluation.beir import Dataset
from diapason.evaluation.comparing import Interval, bootstrap
from diapason.evaluation.metrics import METRICS, Grades, by_score
from diapason.evaluation.modes import Mode, Way, needs_reranker, request
from diapason.search.v1.collection_pb2 import Route
from diapason.search.v1.search_pb2 import SearchRequest, SearchResponse

_KEPT = 10
# An answer has a hundred documents with their texts; so many answers fit into a message well below the client's limit.
_ROOM_BYTES = 16 * 1024 * 1024
_OTHER_BYTES = 20_000
_MAX_BATCH = 50
_MAX_RERANKED_BATCH = 4
# What the service takes; an encoder reads far less.
_QUERY_CHARACTERS = 4_000
_ATTEMPTS = 8
_FIRST_WAIT_SECONDS = 0.2
# google.rpc.Code of what may well be answered when it is asked again.
_RESOURCE_EXHAUSTED, _UNAVAILABLE = 8, 14

Step = Callable[[int], None]


class NotMeasured(Exception):
    """What was to be measured changed, or did not answer."""


@dataclass(frozen=True)
class Found:
    """One query: its ten best documents with their scores, and the value of each metric."""

    best: tuple[tuple[str, float], ...]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Measurement:
    """All queries in one way. ``seconds`` is how long search took to answer them, one batch after another."""

    way: Way
    metrics: dict[str, Interval]
    seconds: float
    found: dict[str, Found]

    @property
    def queries_per_second(self) -> float:
        """How many were answered in a second."""
        return len(self.found) / self.seconds if self.seconds else 0.0


class Searcher:
    """Asks one collection for as long as ``route`` serves it. ``full`` is the encoder's own size."""

    def __init__(self, client: Client, data: Dataset, route: Route, full: int) -> None:
        self._client, self._data, self._route, self._full = client, data, route, full
        self._batch = max(1, min(_MAX_BATCH, _ROOM_BYTES // (data.answer_bytes + _OTHER_BYTES)))

    def warm(self, names: Sequence[str], step: Step = lambda answered: None) -> float:
        """Ask for one document each, so that what is measured first is not slower for it; returns the seconds.

        The embedder keeps the vectors of recent queries, so whoever asks first pays for all.
        """
        started = time.perf_counter()
        for start in range(0, len(names), _MAX_BATCH):
            part = names[start : start + _MAX_BATCH]
            requests = self._requests(Way(Mode.DENSE, self._full), part)
            for each in requests:
                each.limit = 1
            self._answers(part, requests)
            step(len(part))
        return time.perf_counter() - started

    def measure(self, way: Way, names: Sequence[str], step: Step = lambda answered: None) -> Measurement:
        """Ask in one way; ``step`` hears how many more were answered. Raises ``NotMeasured``."""
        found: dict[str, Found] = {}
        seconds = 0.0
        size = min(self._batch, _MAX_RERANKED_BATCH) if needs_reranker(way.mode) else self._batch
        for start in range(0, len(names), size):
            part = names[start : start + size]
            requests = self._requests(way, part)
            started = time.perf_counter()
            answers = self._answers(part, requests)
            seconds += time.perf_counter() - started
            for name, answer in zip(part, answers, strict=True):
                self._check(name, way, answer)
                found[name] = score(name, answer, self._data.judgments[name])
            step(len(part))
        means = {metric: bootstrap([each.metrics[metric] for each in found.values()]) for metric in METRICS}
        return Measurement(way, means, seconds, found)

    def _requests(self, way: Way, names: Sequence[str]) -> list[SearchRequest]:
        texts = (self._data.queries[name][:_QUERY_CHARACTERS] for name in names)
        return [request(way, self._full, self._route.collection, text) for text in texts]

    def _answers(self, names: Sequence[str], requests: Sequence[SearchRequest]) -> list[SearchResponse]:
        """An answer to each. Who is refused because there is too much to do is patient, within bounds."""
        answers: dict[int, SearchResponse] = {}
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
            waiting = [i for i in range(len(requests)) if i not in answers]
            answers |= self._asked(names, requests, waiting)
            if len(answers) == len(requests):
                return [answers[i] for i in range(len(requests))]
        raise NotMeasured("search was too busy to answer; run it again when others ask less of it")

    def _asked(
        self, names: Sequence[str], requests: Sequence[SearchRequest], waiting: Sequence[int]
    ) -> dict[int, SearchResponse]:
        """What was answered, by place."""
        try:
            said = self._client.search_many([requests[i] for i in waiting])
        except Overloaded:
            return {}
        answers: dict[int, SearchResponse] = {}
        for i, answer in zip(waiting, said, strict=True):
            if isinstance(answer, SearchResponse):
                answers[i] = answer
            elif answer.code not in (_RESOURCE_EXHAUSTED, _UNAVAILABLE):
                raise NotMeasured(f"query {names[i]!r} was refused: {answer.message}")
        return answers

    def _check(self, name: str, way: Way, answer: SearchResponse) -> None:
        asked, served = self._route, answer.route
        if (served.generation, served.encoder.digest) != (asked.generation, asked.encoder.digest):
            raise NotMeasured(
                f"the route of {asked.collection!r} went from generation {asked.generation} to {served.generation} "
                "while it was measured; run it again"
            )
        if needs_reranker(way.mode) and not answer.reranking.applied:
            raise NotMeasured(f"query {name!r} was not reranked: {answer.reranking.reason}; leave {way.mode} out")


def score(query: str, answer: SearchResponse, grades: Grades) -> Found:
    """The metrics of one answer. A document with the query's own id is left out, as BEIR does."""
    scores = {result.id: result.score for result in answer.results if result.id != query}
    ranked = by_score(scores)
    best = tuple((name, scores[name]) for name in ranked[:_KEPT])
    return Found(best, {name: metric(ranked, grades) for name, metric in METRICS.items()})
