"""The tables of feedback."""

from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.feedback.domain.model import Event, Signal, normalized

# Writers take turns under this lock, so that a key that is not there stays away and no two batches wait for each other.
WRITERS = 7073
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


class Base(DeclarativeBase):
    """The tables of feedback."""

    type_annotation_map = {  # noqa: RUF012
        list[dict[str, Any]]: sa.JSON,
        list[str]: sa.JSON,
        dict[str, Any]: sa.JSON,
        datetime: sa.DateTime(timezone=True),
    }


class ImpressionRow(Base):
    """What one search showed. ``shown`` lists document_id, rank, score; ``route`` what served it."""

    __tablename__ = "impressions"
    __table_args__ = (sa.Index("impressions_by_actor", "actor"), sa.Index("impressions_by_age", "at"))
    search_id: Mapped[str] = mapped_column(primary_key=True)
    collection: Mapped[str] = mapped_column(index=True)
    query: Mapped[str] = mapped_column(sa.Text)
    actor: Mapped[str]
    tenant: Mapped[str]
    route: Mapped[dict[str, Any]]
    shown: Mapped[list[dict[str, Any]]]
    at: Mapped[datetime]


class FeedbackRow(Base):
    """One event. ``number`` is the order of arrival and is never given twice, also not after a deletion.

    ``query_key`` stands for the query in indexes, whose entries PostgreSQL bounds; ``time`` is when it was done, in
    milliseconds since 1970, and ``at`` when it arrived.
    """

    __tablename__ = "feedback"
    __table_args__ = (
        sa.Index("feedback_by_query", "collection", "query_key", "number"),
        sa.Index("feedback_by_actor", "actor"),
        sa.Index("feedback_by_search", "search_id"),
        sa.Index("feedback_by_age", "time"),
        {"sqlite_autoincrement": True},
    )
    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    key: Mapped[str] = mapped_column(unique=True)
    collection: Mapped[str]
    search_id: Mapped[str | None]
    query: Mapped[str] = mapped_column(sa.Text)
    query_key: Mapped[str]
    document_id: Mapped[str]
    signal: Mapped[str]
    value: Mapped[float | None]
    actor: Mapped[str]
    tenant: Mapped[str]
    client: Mapped[str]
    reason: Mapped[str] = mapped_column(sa.Text)
    time: Mapped[int] = mapped_column(sa.BigInteger)
    at: Mapped[datetime]


class ExportRow(Base):
    """That a consumer read a collection's events up to a number, under a policy."""

    __tablename__ = "exports"
    consumer: Mapped[str] = mapped_column(primary_key=True)
    collection: Mapped[str] = mapped_column(primary_key=True)
    up_to: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    policy: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class TrainingRow(Base):
    """That a version came out of what a consumer read."""

    __tablename__ = "trainings"
    consumer: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    number: Mapped[int]
    at: Mapped[datetime]


class ErasureRow(Base):
    """That someone was erased, and what that was; not who. ``consumers`` are the names of those who had read it."""

    __tablename__ = "erasures"
    key: Mapped[str] = mapped_column(primary_key=True)
    signals: Mapped[dict[str, Any]]
    impressions: Mapped[int]
    consumers: Mapped[list[str]]
    at: Mapped[datetime]


def query_key(query: str) -> str:
    """What stands for a query that is normalized: 128 bits of its hash, which is enough for it alone."""
    return blake2b(query.encode(), digest_size=16).hexdigest()


def event_of(row: "sa.Row[Any] | FeedbackRow") -> Event:
    """A row as the domain knows it."""
    return Event(
        row.number,
        row.query,
        row.document_id,
        row.actor,
        Signal(row.signal),
        row.value,
        row.tenant,
        row.search_id or "",
        row.time,
    )


def utc(moment: datetime) -> datetime:
    """SQLite gives times back without their zone."""
    return moment.replace(tzinfo=moment.tzinfo or UTC)


def normalized_key(query: str) -> str:
    """The key of a query as someone wrote it."""
    return query_key(normalized(query))


def counts_of(rows: Iterable[Any]) -> dict[Signal, int]:
    """Rows of a signal and a count."""
    return {Signal(name): count for name, count in rows}
