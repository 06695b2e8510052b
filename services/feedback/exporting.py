"""Judgments out, page by page."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from services.feedback.adapters.reading import FeedbackReading
from services.feedback.adapters.records import Records
from services.feedback.domain.crowds import Crowd
from services.feedback.domain.judging import judgments
from services.feedback.domain.model import Event, Judgment
from services.feedback.domain.policies import Policy, fingerprint
from services.kit.errors import InvalidArgument, Violation

# Queries whose events are in memory at the same time.
_QUERIES = 200


@dataclass(frozen=True)
class Cursor:
    """After which judgment an export stands: of a query's key, of a document; both empty at the beginning."""

    up_to: int
    fingerprint: str
    query_key: str = ""
    document_id: str = ""

    def written(self) -> str:
        """As callers see it."""
        content = json.dumps([self.up_to, self.fingerprint, self.query_key, self.document_id])
        return base64.urlsafe_b64encode(content.encode()).decode()


@dataclass(frozen=True)
class Begun:
    """How an export began: the newest event that it reads, whom its policy flags, and the cursor."""

    up_to: int
    flagged: int
    cursor: str


class Exporting:
    """Judgments over all events known when an export began.

    A cursor holds the newest event of that moment and the last judgment sent, so an export that is taken up again
    goes on in the same list, whatever was added meanwhile. What was erased meanwhile is missing from the rest.
    """

    def __init__(self, reading: FeedbackReading, records: Records) -> None:
        self._reading, self._records = reading, records

    async def export(
        self, collection: str, policy: Policy, cursor: str, consumer: str, noted: dict[str, Any]
    ) -> AsyncIterator[Begun | tuple[Judgment, str]]:
        """How it begins, then judgments by query, each with the cursor that follows it.

        If there is a ``consumer``, what it reads is noted, with the policy as ``noted`` says it, before it reads.
        """
        mark = fingerprint(collection, policy)
        at = _read(cursor, mark) if cursor else Cursor(await asyncio.to_thread(self._reading.newest), mark)
        if consumer:
            await asyncio.to_thread(self._records.add_export, consumer, collection, at.up_to, noted)
        crowd = await asyncio.to_thread(self._reading.crowd, collection, at.up_to, policy.crowd, policy.signals)
        yield Begun(at.up_to, len(crowd.actors), at.written())
        first = at.query_key
        while page := await asyncio.to_thread(self._page, collection, policy, crowd, at.up_to, first):
            for key, found in page:
                for judgment in found:
                    if key != at.query_key or judgment.document_id > at.document_id:
                        yield judgment, Cursor(at.up_to, mark, key, judgment.document_id).written()
            # The least string above the last key.
            first = page[-1][0] + "0"

    def _page(
        self, collection: str, policy: Policy, crowd: Crowd, up_to: int, first: str
    ) -> list[tuple[str, list[Judgment]]]:
        queries = self._reading.by_query(collection, up_to, first, _QUERIES)
        searches = _searches(queries) if policy.reads_ranks else set()
        shown = self._reading.impressions(searches) if searches else {}
        return [(key, judgments(events, policy, shown, crowd)) for key, events in queries]


def _searches(queries: list[tuple[str, list[Event]]]) -> set[str]:
    return {event.search_id for _, events in queries for event in events if event.search_id}


def _read(cursor: str, mark: str) -> Cursor:
    try:
        up_to, other, query_key, document_id = json.loads(base64.urlsafe_b64decode(cursor))
        found = Cursor(int(up_to), str(other), str(query_key), str(document_id))
        if not 0 <= found.up_to < 2**63 or "\0" in found.query_key:
            raise ValueError(cursor)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidArgument(Violation("cursor", "is not one; give back a cursor as it came, or none")) from error
    if found.fingerprint != mark:
        remedy = "go on with the policy of the header, or begin anew without a cursor"
        raise InvalidArgument(Violation("cursor", f"is of another collection or policy; {remedy}"))
    return found
