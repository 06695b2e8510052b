"""What the RPCs have in common: from texts to results with one resident version."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from diapason import vectors
from diapason.vectors import Matrix
from services.embedder import metrics
from services.embedder.domain.batching import Lane
from services.embedder.domain.caching import Cache
from services.embedder.metrics import Labels
from services.embedder.residents import Resident
from services.embedder.scheduler import Answer, Request, Result, Scheduler
from services.embedder.worker.runtime import Cut, Work
from services.kit import tracing
from services.kit.context import deadline
from services.kit.errors import InvalidArgument, Overloaded, ServiceError, Violation

# Longer texts are hardly ever asked twice, and would take the room of many that are.
_CACHED_CHARACTERS = 512
# Cutting so many characters takes about as long as computing one token, passages read alone included (measured
# with all-MiniLM-L6-v2); by this it is admitted and takes its turn.
_CUT_CHARACTERS = 100
# A message of a stream takes at most this part of its lane at a time.
_PIECES = 8


class Embedding:
    """Submits texts and gathers results.

    ``cache_entries`` bounds the cache of interactive queries, ``max_tokens`` what one request may hold.
    """

    def __init__(self, scheduler: Scheduler, cache_entries: int, max_tokens: int) -> None:
        self._scheduler = scheduler
        self._max_tokens = max_tokens
        self._caching = cache_entries > 0
        self._cache: Cache[tuple[str, str], Answer] = Cache(cache_entries)

    async def compute(self, resident: Resident, lane: Lane, inputs: Sequence[Work]) -> list[Result]:
        """One result per input, in order. Raises ``Overloaded`` at once if the lane has no room."""
        request = self._submit(resident, lane, inputs, deadline())
        await request.done
        return self._gather(resident, inputs, request)

    async def queries(self, resident: Resident, texts: Sequence[str]) -> list[Result]:
        """As `compute` in the interactive lane, for queries that may have been asked before."""
        if not self._caching:
            return await self.compute(resident, Lane.INTERACTIVE, texts)
        digest = resident.desired.digest
        found: list[Result | None] = [self._cache.get((digest, text)) for text in texts]
        missing = [i for i, answer in enumerate(found) if answer is None]
        metrics.looked_up(Labels.of(resident), len(texts) - len(missing), len(missing))
        if missing:
            computed = await self.compute(resident, Lane.INTERACTIVE, [texts[i] for i in missing])
            for i, result in zip(missing, computed, strict=True):
                found[i] = result
                if isinstance(result, Answer) and len(texts[i]) <= _CACHED_CHARACTERS:
                    # A row of its own: a view would keep the whole batch.
                    self._cache.put((digest, texts[i]), Answer(result.row.copy(), result.tokens, result.truncated))
        return [result for result in found if result is not None]

    async def compute_when_there_is_room(self, resident: Resident, lane: Lane, inputs: Sequence[str]) -> list[Result]:
        """As `compute`, but waiting instead of being refused; in pieces that leave room for others."""
        pieces = _pieces([resident.estimate(len(text)) for text in inputs], self._max_tokens // _PIECES)
        computed = [await self._piece(resident, lane, inputs[start:end]) for start, end in pieces]
        return [result for results in computed for result in results]

    async def _piece(self, resident: Resident, lane: Lane, inputs: Sequence[str]) -> list[Result]:
        while True:
            await self._scheduler.room(lane, [resident.estimate(len(text)) for text in inputs])
            try:
                request = self._submit(resident, lane, inputs, deadline(), refusable=False)
            except Overloaded:
                continue  # another was quicker
            await request.done
            return self._gather(resident, inputs, request)

    def _submit(
        self, resident: Resident, lane: Lane, inputs: Sequence[Work], until: float, refusable: bool = True
    ) -> Request:
        tokens = [_cost(resident, text) for text in inputs]
        if refusable and len(tokens) > 1 and sum(tokens) > self._max_tokens:
            raise InvalidArgument(Violation("texts", self._too_much(inputs, sum(tokens))))
        try:
            return self._scheduler.submit(resident.desired.digest, lane, inputs, tokens, until)
        except Overloaded:
            if refusable:
                metrics.refused(Labels.of(resident), f"{lane.value}_queue_full")
            raise

    def _too_much(self, inputs: Sequence[Work], tokens: int) -> str:
        if isinstance(inputs[0], Cut):
            most = self._max_tokens * _CUT_CHARACTERS
            return f"have {sum(map(_characters, inputs))} characters; send at most {most} at once"
        return f"hold about {tokens} tokens; send at most {self._max_tokens} at once, or use EmbedStream"

    def _gather(self, resident: Resident, inputs: Sequence[Work], request: Request) -> list[Result]:
        results = [result for result in request.results if result is not None]
        assert len(results) == len(inputs)  # the request is done
        whole = [
            (_characters(text), result.tokens)
            for text, result in zip(inputs, results, strict=True)
            if isinstance(result, Answer) and not result.truncated
        ]
        resident.estimate.learn(len(whole), sum(c for c, _ in whole), sum(t for _, t in whole))
        failed = sum(isinstance(result, ServiceError) for result in results)
        truncated = sum(isinstance(result, Answer) and result.truncated for result in results)
        metrics.answered(Labels.of(resident), truncated, failed)
        _trace(results)
        return results


def rows(answers: Sequence[Answer], resident: Resident, dimensions: int) -> Matrix:
    """Answers × ``dimensions`` (0: the full size), shortened as the version's kind demands."""
    full = np.stack([answer.row for answer in answers])
    if resident.manifest.raw and dimensions:
        return full[:, :dimensions]
    return vectors.truncated(full, dimensions)


def _pieces(tokens: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Start and end of runs of at most ``most`` tokens, or of one text."""
    ends, held = [0], 0
    for i, count in enumerate(tokens):
        if i > ends[-1] and held + count > most:
            ends.append(i)
            held = 0
        held += count
    return list(pairwise([*ends, len(tokens)])) if tokens else []


def _cost(resident: Resident, work: Work) -> int:
    """In tokens to be computed, by an estimate."""
    if isinstance(work, Cut):
        return 1 + _characters(work) // _CUT_CHARACTERS
    return resident.estimate(_characters(work))


def _characters(text: Work) -> int:
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def _trace(results: Sequence[Result]) -> None:
    """The last text's way, as spans one after the other that end now."""
    last = max((r for r in results if isinstance(r, Answer)), key=lambda answer: answer.queued, default=None)
    if last:
        tracing.stage("inference", last.inference, texts=len(results))
        tracing.stage("tokenization", last.tokenization, last.inference)
        tracing.stage("queue", last.queued, last.inference + last.tokenization)
