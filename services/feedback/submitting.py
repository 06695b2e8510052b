"""Taking feedback in."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from services.feedback import metrics
from services.feedback.adapters.store import FeedbackStore, Shown
from services.feedback.domain import rules
from services.feedback.domain.limits import Limits
from services.feedback.domain.model import Actor
from services.feedback.domain.rules import Submission
from services.kit.errors import FailedPrecondition, NotFound, Overloaded
from services.kit.gather import Gather

# Impressions travel behind the answers they belong to; feedback given at once waits for its own.
_IMPRESSION_TRIES = 40
_IMPRESSION_PAUSE_SECONDS = 0.05
# Requests of one transaction: their keys, 500 of each, must fit into one question to SQLite (32,766).
_MOST_TOGETHER = 32


class Submitting:
    """Checks, bounds and stores. Requests that come while others are being stored share the next transaction."""

    def __init__(self, store: FeedbackStore, limits: Limits, kept_days: int) -> None:
        self._store, self._limits, self._kept_days = store, limits, kept_days
        self._together = Gather(self._write, _MOST_TOGETHER)

    async def submit(self, batch: Sequence[Submission]) -> list[bool]:
        """Store a batch, whole or not at all; for each item whether it was stored before.

        Raises ``InvalidArgument``, ``Overloaded`` (an actor who sends too much), ``NotFound`` (a search id unknown
        here) or ``FailedPrecondition`` (a document that the search did not show).
        """
        rules.check(batch, int(time.time() * 1000), self._kept_days)
        taken = Counter[Actor]((item.tenant, item.actor) for item in batch if item.actor)
        wait = self._limits.take(taken, time.monotonic())
        if wait:
            metrics.RATE_REFUSED.inc(len(batch))
            raise Overloaded(
                "an actor of this batch sends too much; nothing is stored, try again after the delay", wait
            )
        try:
            duplicates = await self._together(await self._complete(batch))
        except BaseException:
            self._limits.give_back(taken)
            raise
        again = Counter[Actor](
            (item.tenant, item.actor) for item, known in zip(batch, duplicates, strict=True) if item.actor and known
        )
        self._limits.give_back(again)
        _count(batch, duplicates)
        return duplicates

    async def _write(self, batches: Sequence[Sequence[Submission]]) -> list[list[bool]]:
        return await asyncio.to_thread(self._store.add_feedback, batches)

    async def _complete(self, batch: Sequence[Submission]) -> list[Submission]:
        """The items with the collection and the query of their searches."""
        shown = await self._impressions({item.search_id for item in batch if item.search_id})
        missing = {item.key for item in batch if item.search_id and item.search_id not in shown}
        # What is stored already needs no impression; by now that may be deleted.
        known = await asyncio.to_thread(self._store.known, missing) if missing else set[str]()
        return [item if item.key in known else _completed(i, item, shown) for i, item in enumerate(batch)]

    async def _impressions(self, search_ids: set[str]) -> dict[str, Shown]:
        found: dict[str, Shown] = {}
        for _ in range(_IMPRESSION_TRIES if search_ids else 0):
            found |= await asyncio.to_thread(self._store.shown, search_ids - set(found))
            if len(found) == len(search_ids):
                break
            await asyncio.sleep(_IMPRESSION_PAUSE_SECONDS)
        return found


def _completed(i: int, item: Submission, shown: dict[str, Shown]) -> Submission:
    if not item.search_id:
        return item
    impression = shown.get(item.search_id)
    if impression is None:
        remedy = "give the id that Search returned; if the search was elsewhere, give the query itself"
        raise NotFound("search", item.search_id, f"feedback[{i}].search_id: {remedy}")
    if item.document_id not in impression.documents:
        raise FailedPrecondition(
            "DOCUMENT_NOT_SHOWN",
            f"feedback[{i}].document_id",
            f"feedback[{i}].document_id: search {item.search_id!r} did not show document {item.document_id!r}; "
            "give one of its results, or the query itself instead of the search id",
        )
    return replace(item, collection=impression.collection, query=impression.query)


def _count(batch: Sequence[Submission], duplicates: Sequence[bool]) -> None:
    metrics.DUPLICATES.inc(sum(duplicates))
    stored = Counter(item.signal for item, known in zip(batch, duplicates, strict=True) if not known)
    for signal, count in stored.items():
        assert signal is not None
        metrics.EVENTS.labels(signal.value).inc(count)
