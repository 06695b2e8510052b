"""Impressions and feedback in SQL. Append-only; acknowledged means committed.

Methods block: call them from a thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from services.feedback.adapters.tables import WRITERS, FeedbackRow, ImpressionRow, query_key
from services.feedback.domain.model import Signal, normalized
from services.feedback.domain.rules import Submission
from services.kit.sql import Database

# Signals whose value is read.
_VALUED = frozenset({Signal.GRADE, Signal.DWELL})


@dataclass(frozen=True)
class Shown:
    """An impression as feedback needs it."""

    collection: str
    query: str
    documents: frozenset[str]


class FeedbackStore:
    """What is written, and what is read to write it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_impressions(self, rows: Sequence[ImpressionRow]) -> int:
        """Store those not stored before; returns how many those were."""
        by_id = {row.search_id: row for row in rows}
        with self._database.in_turn(WRITERS) as session:
            known = set(session.scalars(sa.select(ImpressionRow.search_id).where(ImpressionRow.search_id.in_(by_id))))
            fresh = [row for search_id, row in by_id.items() if search_id not in known]
            session.add_all(fresh)
            return len(fresh)

    def shown(self, search_ids: set[str]) -> dict[str, Shown]:
        """The impressions known of these."""
        with self._database.connecting() as connection:
            columns = ImpressionRow.search_id, ImpressionRow.collection, ImpressionRow.query, ImpressionRow.shown
            rows = connection.execute(sa.select(*columns).where(ImpressionRow.search_id.in_(search_ids)))
            return {
                row.search_id: Shown(row.collection, row.query, frozenset(item["document_id"] for item in row.shown))
                for row in rows
            }

    def known(self, keys: set[str]) -> set[str]:
        """Which of these idempotency keys are stored."""
        with self._database.connecting() as connection:
            return set(connection.scalars(sa.select(FeedbackRow.key).where(FeedbackRow.key.in_(keys))))

    def add_feedback(self, batches: Sequence[Sequence[Submission]]) -> list[list[bool]]:
        """Store batches in one transaction; for each item whether its key was known before.

        The items name their collection and query, by search id or not.
        """
        keys = {item.key for batch in batches for item in batch}
        with self._database.in_turn(WRITERS) as session:
            # In time with the numbers: whoever waited for the turn arrives when it is theirs.
            now = datetime.now(UTC)
            known = set(session.scalars(sa.select(FeedbackRow.key).where(FeedbackRow.key.in_(keys))))
            rows: list[dict[str, Any]] = []
            duplicates: list[list[bool]] = []
            for batch in batches:
                duplicates.append([])
                for item in batch:
                    duplicates[-1].append(item.key in known)
                    if item.key not in known:
                        known.add(item.key)
                        rows.append(_row(item, now))
            if rows:
                session.connection().execute(sa.insert(FeedbackRow.__table__), rows)  # type: ignore[arg-type]
            return duplicates


def _row(item: Submission, now: datetime) -> dict[str, Any]:
    assert item.signal is not None
    query, arrived = normalized(item.query), int(now.timestamp() * 1000)
    return {
        "key": item.key,
        "collection": item.collection,
        "search_id": item.search_id or None,
        "query": query,
        "query_key": query_key(query),
        "document_id": item.document_id,
        "signal": item.signal.value,
        "value": item.value if item.signal in _VALUED else None,
        "actor": item.actor,
        "tenant": item.tenant,
        "client": item.client,
        "reason": item.reason,
        # A clock that is ahead must not outrank what is said after it.
        "time": arrived if item.time is None else min(item.time, arrived),
        "at": now,
    }
