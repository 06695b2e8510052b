"""Impressions and feedback in SQL. Append-only; acknowledged means committed.

Methods block: call them from a thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.feedback.domain.model import Event, Signal, normalized
from services.feedback.domain.rules import Submission
from services.kit.sql import Database


class Base(DeclarativeBase):
    """The tables of feedback."""

    type_annotation_map = {  # noqa: RUF012
        list[dict[str, Any]]: sa.JSON,
        dict[str, Any]: sa.JSON,
        datetime: sa.DateTime(timezone=True),
    }


class ImpressionRow(Base):
    """What one search showed. ``shown`` lists document_id, rank, score; ``route`` what served it."""

    __tablename__ = "impressions"
    search_id: Mapped[str] = mapped_column(primary_key=True)
    collection: Mapped[str] = mapped_column(index=True)
    query: Mapped[str] = mapped_column(sa.Text)
    actor: Mapped[str]
    route: Mapped[dict[str, Any]]
    shown: Mapped[list[dict[str, Any]]]
    at: Mapped[datetime]


class FeedbackRow(Base):
    """One event. ``number`` is the order of arrival."""

    __tablename__ = "feedback"
    number: Mapped[int] = mapped_column(
        sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    key: Mapped[str] = mapped_column(unique=True)
    collection: Mapped[str] = mapped_column(index=True)
    search_id: Mapped[str | None]
    query: Mapped[str] = mapped_column(sa.Text)
    document_id: Mapped[str]
    signal: Mapped[str]
    value: Mapped[float | None]
    actor: Mapped[str]
    reason: Mapped[str] = mapped_column(sa.Text)
    at: Mapped[datetime]


@dataclass(frozen=True)
class Shown:
    """An impression as feedback needs it."""

    collection: str
    query: str
    documents: frozenset[str]


@dataclass(frozen=True)
class Summary:
    """Counts over one collection or all."""

    impressions: int
    signals: dict[Signal, int]
    queries: int
    last: datetime | None


class FeedbackStore:
    """The two tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_impressions(self, rows: Sequence[ImpressionRow]) -> int:
        """Store those not stored before; returns how many those were."""
        by_id = {row.search_id: row for row in rows}
        with self._database.writing() as session:
            known = set(session.scalars(sa.select(ImpressionRow.search_id).where(ImpressionRow.search_id.in_(by_id))))
            fresh = [row for search_id, row in by_id.items() if search_id not in known]
            session.add_all(fresh)
            return len(fresh)

    def shown(self, search_ids: set[str]) -> dict[str, Shown]:
        """The impressions known of these."""
        with self._database.reading() as session:
            rows = session.scalars(sa.select(ImpressionRow).where(ImpressionRow.search_id.in_(search_ids)))
            return {
                row.search_id: Shown(row.collection, row.query, frozenset(item["document_id"] for item in row.shown))
                for row in rows
            }

    def add_feedback(self, batch: Sequence[Submission]) -> list[bool]:
        """Store a batch in one transaction; for each item whether its key was known before.

        The items name their collection and query, by search id or not.
        """
        with self._database.writing() as session:
            keys = {item.key for item in batch}
            known = set(session.scalars(sa.select(FeedbackRow.key).where(FeedbackRow.key.in_(keys))))
            duplicates = []
            now = datetime.now(UTC)
            for item in batch:
                duplicates.append(item.key in known)
                if item.key in known:
                    continue
                known.add(item.key)
                assert item.signal is not None
                session.add(
                    FeedbackRow(
                        key=item.key,
                        collection=item.collection,
                        search_id=item.search_id or None,
                        query=normalized(item.query),
                        document_id=item.document_id,
                        signal=item.signal.value,
                        value=item.value if item.signal is Signal.GRADE else None,
                        actor=item.actor,
                        reason=item.reason,
                        at=now,
                    )
                )
            return duplicates

    def newest(self, collection: str) -> int:
        """The number of the newest event of a collection; 0 if it has none."""
        with self._database.reading() as session:
            query = sa.select(sa.func.max(FeedbackRow.number)).where(FeedbackRow.collection == collection)
            return session.scalar(query) or 0

    def events(self, collection: str, up_to: int) -> list[Event]:
        """The events of a collection up to a number, in the order of arrival."""
        with self._database.reading() as session:
            rows = session.scalars(
                sa.select(FeedbackRow)
                .where(FeedbackRow.collection == collection, FeedbackRow.number <= up_to)
                .order_by(FeedbackRow.number)
            )
            return [
                Event(row.number, row.query, row.document_id, row.actor, Signal(row.signal), row.value) for row in rows
            ]

    def summary(self, collection: str) -> Summary:
        """Counts; an empty ``collection`` means all."""
        with self._database.reading() as session:

            def of(column: sa.ColumnElement[Any] | Any, model: type[Base]) -> sa.Select[Any]:
                query = sa.select(column).select_from(model)
                table: Any = model
                return query.where(table.collection == collection) if collection else query

            impressions = session.scalar(of(sa.func.count(), ImpressionRow)) or 0
            counts = of(FeedbackRow.signal, FeedbackRow).add_columns(sa.func.count()).group_by(FeedbackRow.signal)
            signals = {Signal(name): count for name, count in session.execute(counts)}
            queries = session.scalar(of(sa.func.count(sa.distinct(FeedbackRow.query)), FeedbackRow)) or 0
            last = session.scalar(of(sa.func.max(FeedbackRow.at), FeedbackRow))
            return Summary(impressions, signals, queries, last)
