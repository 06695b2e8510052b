"""What feedback does: the use cases behind the servicer."""

import asyncio
import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import replace

from services.feedback.domain import rules
from services.feedback.domain.model import Judgment, Policy, judgments
from services.feedback.domain.rules import Submission
from services.feedback.store import FeedbackStore, Shown
from services.kit.errors import FailedPrecondition, InvalidArgument, NotFound, Violation

# Impressions travel behind the answers they belong to; feedback given at once waits for its own.
_IMPRESSION_TRIES = 40
_IMPRESSION_PAUSE_SECONDS = 0.05


async def submit(store: FeedbackStore, batch: Sequence[Submission]) -> list[bool]:
    """Store a batch, whole or not at all; for each item whether it was stored before.

    Raises ``InvalidArgument``, ``NotFound`` (a search id unknown here) or
    ``FailedPrecondition`` (a document that the search did not show).
    """
    rules.check(batch)
    shown = await _impressions(store, {item.search_id for item in batch if item.search_id})
    complete = [_complete(i, item, shown) for i, item in enumerate(batch)]
    return await asyncio.to_thread(store.add_feedback, complete)


async def _impressions(store: FeedbackStore, search_ids: set[str]) -> dict[str, Shown]:
    for _ in range(_IMPRESSION_TRIES):
        found = await asyncio.to_thread(store.shown, search_ids)
        if len(found) == len(search_ids):
            break
        await asyncio.sleep(_IMPRESSION_PAUSE_SECONDS)
    return found


def _complete(i: int, item: Submission, shown: dict[str, Shown]) -> Submission:
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


async def export(store: FeedbackStore, collection: str, policy: Policy, cursor: str) -> list[tuple[Judgment, str]]:
    """Judgments over all events known when the export began, each with the cursor that follows it.

    A cursor holds the newest event of that moment and the last judgment sent, so an export that
    is taken up again goes on in the same list, whatever was added meanwhile.
    """
    up_to, after = _read_cursor(cursor) if cursor else (await asyncio.to_thread(store.newest, collection), None)
    events = await asyncio.to_thread(store.events, collection, up_to)
    found = await asyncio.to_thread(judgments, events, policy)
    return [
        (judgment, _write_cursor(up_to, judgment))
        for judgment in found
        if after is None or (judgment.query, judgment.document_id) > after
    ]


def _write_cursor(up_to: int, judgment: Judgment) -> str:
    return base64.urlsafe_b64encode(json.dumps([up_to, judgment.query, judgment.document_id]).encode()).decode()


def _read_cursor(cursor: str) -> tuple[int, tuple[str, str]]:
    try:
        up_to, query, document_id = json.loads(base64.urlsafe_b64decode(cursor))
        return int(up_to), (str(query), str(document_id))
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidArgument(Violation("cursor", "is not one; give back a cursor as it came, or none")) from error
