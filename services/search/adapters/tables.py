"""The catalog's tables, and their rows as the things search is about."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.search.domain.model import (
    Bm25,
    Distance,
    Document,
    FieldType,
    Index,
    IndexState,
    Passages,
    Quantization,
    Reindex,
    ReindexState,
    Route,
    Settings,
    Version,
)


class Base(DeclarativeBase):
    """The catalog's tables."""

    type_annotation_map = {  # noqa: RUF012
        dict[str, Any]: sa.JSON,
        list[int]: sa.JSON,
        list[str]: sa.JSON,
        datetime: sa.DateTime(timezone=True),
    }


class IdentityRow(Base):
    """One row: what tells this catalog from others that use the same engine."""

    __tablename__ = "identity"
    id: Mapped[str] = mapped_column(primary_key=True)


class CollectionRow(Base):
    """A collection, how far its order of writing has come, and how many documents exist."""

    __tablename__ = "collections"
    name: Mapped[str] = mapped_column(primary_key=True)
    dimensions: Mapped[list[int]]
    retention: Mapped[float]
    settings: Mapped[dict[str, Any]]
    last_sequence: Mapped[int] = mapped_column(sa.BigInteger)
    documents: Mapped[int] = mapped_column(sa.BigInteger)
    # While a switch compares counts, writers wait; by the clock, so that a crash doesn't hold them for ever.
    paused_until: Mapped[datetime | None]
    paused_by: Mapped[str]
    # Of one that has not come whole yet: unless whoever takes it in says more by then, it is deleted.
    importing_until: Mapped[datetime | None]


class DocumentRow(Base):
    """The newest state of a document, or its tombstone."""

    __tablename__ = "documents"
    __table_args__ = (sa.Index("documents_by_sequence", "collection", "sequence", unique=True),)
    collection: Mapped[str] = mapped_column(sa.ForeignKey("collections.name"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(sa.BigInteger)
    revision: Mapped[int] = mapped_column(sa.BigInteger)
    deleted: Mapped[bool]
    title: Mapped[str]
    text: Mapped[str] = mapped_column(sa.Text)
    payload: Mapped[dict[str, Any]]


class IndexRow(Base):
    """An index. ``owner`` alone writes to it, until ``leased_until``; ``token`` grows with each new owner."""

    __tablename__ = "indexes"
    id: Mapped[str] = mapped_column(primary_key=True)
    collection: Mapped[str] = mapped_column(sa.ForeignKey("collections.name"))
    model: Mapped[str]
    number: Mapped[int]
    digest: Mapped[str]
    dimension: Mapped[int]
    dimensions: Mapped[list[int]]
    fields: Mapped[list[str]]
    state: Mapped[str]
    applied: Mapped[int] = mapped_column(sa.BigInteger)
    drop_at: Mapped[datetime | None]
    max_rate: Mapped[float]
    owner: Mapped[str]
    token: Mapped[int] = mapped_column(sa.BigInteger)
    leased_until: Mapped[datetime | None]


class RouteRow(Base):
    """Append-only. The highest generation serves; its primary key is the compare-and-set."""

    __tablename__ = "routes"
    collection: Mapped[str] = mapped_column(sa.ForeignKey("collections.name"), primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    index_id: Mapped[str] = mapped_column(sa.ForeignKey("indexes.id"))
    since: Mapped[datetime]
    reranker: Mapped[dict[str, Any] | None]


class ReindexRow(Base):
    """The building of one index. ``rate`` in documents per second, of late."""

    __tablename__ = "reindexes"
    id: Mapped[str] = mapped_column(primary_key=True)
    collection: Mapped[str] = mapped_column(sa.ForeignKey("collections.name"))
    index_id: Mapped[str] = mapped_column(sa.ForeignKey("indexes.id"))
    state: Mapped[str]
    total: Mapped[int]
    rate: Mapped[float]


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


def aware(moment: datetime) -> datetime:
    """SQLite gives back what was stored in UTC without saying so."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def to_json(settings: Settings) -> dict[str, Any]:
    """What of the settings has no column of its own."""
    bm25, passages = settings.bm25, settings.passages
    return {
        "distance": settings.distance.value,
        "quantization": settings.quantization.value,
        "bm25": bm25 and {"language": bm25.language, "average_words": bm25.average_words},
        "passages": passages and {"max_tokens": passages.max_tokens, "overlap_tokens": passages.overlap_tokens},
        "fields": {name: kind.value for name, kind in settings.fields.items()},
    }


def settings_of(row: CollectionRow) -> Settings:
    """A collection's settings. What an older row does not say is as it was then."""
    stored = row.settings
    return Settings(
        dimensions=tuple(row.dimensions),
        retention=row.retention,
        distance=Distance(stored.get("distance", Distance.COSINE.value)),
        quantization=Quantization(stored.get("quantization", Quantization.NONE.value)),
        bm25=Bm25(**stored["bm25"]) if stored.get("bm25") else None,
        passages=Passages(**stored["passages"]) if stored.get("passages") else None,
        fields={name: FieldType(kind) for name, kind in stored.get("fields", {}).items()},
    )


def version_of(row: IndexRow) -> Version:
    """The version of an index's vectors."""
    return Version(row.model, row.number, row.digest)


def index_of(row: IndexRow, settings: Settings) -> Index:
    """An index with its collection's settings."""
    return Index(
        id=row.id,
        collection=row.collection,
        version=version_of(row),
        dimension=row.dimension,
        settings=settings,
        state=IndexState(row.state),
        applied=row.applied,
        fields=frozenset(row.fields),
        drop_at=aware(row.drop_at) if row.drop_at else None,
        max_rate=row.max_rate,
    )


def route_of(row: RouteRow, index: IndexRow) -> Route:
    """A route with its index's version."""
    reranker = Version(**row.reranker) if row.reranker else None
    return Route(row.collection, row.generation, version_of(index), row.index_id, aware(row.since), reranker)


def reindex_of(row: ReindexRow, index: IndexRow) -> Reindex:
    """A reindex; ``done`` is for the caller to say."""
    state = ReindexState(row.state)
    return Reindex(row.id, row.collection, row.index_id, version_of(index), state, row.total, 0, row.rate)


def document_of(row: DocumentRow) -> Document:
    """A document or tombstone as stored."""
    return Document(row.id, row.text, row.title, row.payload, row.revision, row.sequence, row.deleted)
