"""The catalog in SQL: collections, documents, indexes, routes, reindexes.

Documents are kept in the order of writing: each write of a document gives it the collection's
next sequence number, and a delete is a write too (a tombstone). An index is a view of that
order, so one rule — apply what comes after the last place applied — makes it follow live
writes, fill a new index, and recover after a crash (I5).

Methods block: call them from a thread.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from services.kit.errors import AlreadyExists, NotFound
from services.kit.sql import Database
from services.search.domain.model import (
    Document,
    Encoder,
    Index,
    IndexState,
    Reindex,
    ReindexState,
    Route,
    Settings,
    Version,
)
from services.search.domain.rules import stale_generation


class Base(DeclarativeBase):
    """The catalog's tables."""

    type_annotation_map = {dict[str, Any]: sa.JSON, list[int]: sa.JSON, datetime: sa.DateTime(timezone=True)}  # noqa: RUF012


class CollectionRow(Base):
    """A collection and how far its order of writing has come."""

    __tablename__ = "collections"
    name: Mapped[str] = mapped_column(primary_key=True)
    dimensions: Mapped[list[int]]
    retention: Mapped[float]
    last_sequence: Mapped[int] = mapped_column(sa.BigInteger)


class DocumentRow(Base):
    """The newest state of a document, or its tombstone."""

    __tablename__ = "documents"
    __table_args__ = (sa.Index("documents_by_sequence", "collection", "sequence", unique=True),)
    collection: Mapped[str] = mapped_column(sa.ForeignKey("collections.name"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(sa.BigInteger)
    revision: Mapped[int]
    deleted: Mapped[bool]
    title: Mapped[str]
    text: Mapped[str] = mapped_column(sa.Text)
    payload: Mapped[dict[str, Any]]


class IndexRow(Base):
    """An index; kept as a tombstone after it is dropped."""

    __tablename__ = "indexes"
    id: Mapped[str] = mapped_column(primary_key=True)
    collection: Mapped[str] = mapped_column(sa.ForeignKey("collections.name"))
    model: Mapped[str]
    number: Mapped[int]
    digest: Mapped[str]
    dimension: Mapped[int]
    dimensions: Mapped[list[int]]
    state: Mapped[str]
    applied: Mapped[int] = mapped_column(sa.BigInteger)
    drop_at: Mapped[datetime | None]


class RouteRow(Base):
    """Append-only. The highest generation serves; its primary key is the compare-and-set."""

    __tablename__ = "routes"
    collection: Mapped[str] = mapped_column(sa.ForeignKey("collections.name"), primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    index_id: Mapped[str] = mapped_column(sa.ForeignKey("indexes.id"))
    since: Mapped[datetime]


class ReindexRow(Base):
    """The building of one index."""

    __tablename__ = "reindexes"
    id: Mapped[str] = mapped_column(primary_key=True)
    collection: Mapped[str] = mapped_column(sa.ForeignKey("collections.name"))
    index_id: Mapped[str] = mapped_column(sa.ForeignKey("indexes.id"))
    state: Mapped[str]
    total: Mapped[int]


class Catalog:
    """All that search keeps in SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Collections and routes

    def create_collection(self, name: str, settings: Settings, encoder: Encoder) -> None:
        """A new collection with an empty index and its first route. Raises ``AlreadyExists``."""
        try:
            with self._database.writing() as session:
                row = CollectionRow(
                    name=name,
                    dimensions=list(settings.dimensions),
                    retention=settings.retention,
                    last_sequence=0,
                )
                session.add(row)
                session.flush()
                index = _add_index(session, row, encoder, IndexState.SERVING)
                session.flush()
                session.add(RouteRow(collection=name, generation=1, index_id=index.id, since=_now()))
        except IntegrityError as error:
            raise AlreadyExists("collection", name, "choose another name, or use the one that exists") from error

    def collections(self) -> list[str]:
        """All names, in order."""
        with self._database.reading() as session:
            return list(session.scalars(sa.select(CollectionRow.name).order_by(CollectionRow.name)))

    def settings(self, collection: str) -> Settings:
        """A collection's settings. Raises ``NotFound``."""
        with self._database.reading() as session:
            row = _collection(session, collection)
            return Settings(tuple(row.dimensions), row.retention)

    def route(self, collection: str) -> Route:
        """What serves now. Raises ``NotFound``."""
        return self.routes(collection)[0]

    def routes(self, collection: str) -> list[Route]:
        """What was live when, newest first. Raises ``NotFound``."""
        with self._database.reading() as session:
            _collection(session, collection)
            rows = session.execute(
                sa.select(RouteRow, IndexRow)
                .join(IndexRow, RouteRow.index_id == IndexRow.id)
                .where(RouteRow.collection == collection)
                .order_by(RouteRow.generation.desc())
            ).all()
            return [_route(route, index) for route, index in rows]

    def switch(self, collection: str, index_id: str, expected_generation: int) -> Route:
        """Make an index serve, if nobody switched since ``expected_generation``. Raises ``Conflict``."""
        changed = stale_generation(collection, expected_generation)
        try:
            with self._database.writing() as session:
                settings = _collection(session, collection)
                current = session.scalars(
                    sa.select(RouteRow).where(RouteRow.collection == collection).order_by(RouteRow.generation.desc())
                ).first()
                if current is None or current.generation != expected_generation:
                    raise changed
                index, previous = session.get_one(IndexRow, index_id), session.get_one(IndexRow, current.index_id)
                if index.state == IndexState.DROPPED.value:
                    raise NotFound("index", index_id, f"it was dropped; GetCollection lists those of {collection!r}")
                previous.state = IndexState.RETAINED.value
                previous.drop_at = _now() + timedelta(seconds=settings.retention)
                index.state, index.drop_at = IndexState.SERVING.value, None
                route = RouteRow(
                    collection=collection, generation=expected_generation + 1, index_id=index_id, since=_now()
                )
                session.add(route)
                session.execute(
                    sa.update(ReindexRow)
                    .where(ReindexRow.index_id == index_id, ReindexRow.state == ReindexState.CAUGHT_UP.value)
                    .values(state=ReindexState.SWITCHED.value)
                )
                return _route(route, index)
        except IntegrityError as error:
            raise changed from error

    # Documents

    def write(self, collection: str, documents: Sequence[Document]) -> list[Document]:
        """Store new states of documents, durably; returns them with revision and sequence.

        A document with ``deleted`` set leaves a tombstone. Raises ``NotFound`` for the collection.
        """
        with self._database.writing() as session:
            # Writers of one collection take turns, so that sequences become visible in their order.
            row = _collection(session, collection, lock=True)
            ids = {document.id for document in documents}
            known = {
                found.id: found
                for found in session.scalars(
                    sa.select(DocumentRow).where(DocumentRow.collection == collection, DocumentRow.id.in_(ids))
                )
            }
            written = []
            for document in documents:
                row.last_sequence += 1
                stored = known.get(document.id)
                if stored is None:
                    stored = known[document.id] = DocumentRow(collection=collection, id=document.id, revision=0)
                    session.add(stored)
                stored.sequence = row.last_sequence
                stored.revision += 1
                stored.deleted = document.deleted
                stored.title, stored.text = document.title, document.text
                stored.payload = dict(document.payload)
                written.append(_document(stored))
            return written

    def existing(self, collection: str, ids: Sequence[str]) -> dict[str, Document]:
        """Those of the documents that exist."""
        with self._database.reading() as session:
            rows = session.scalars(
                sa.select(DocumentRow).where(
                    DocumentRow.collection == collection,
                    DocumentRow.id.in_(ids),
                    DocumentRow.deleted.is_(False),
                )
            )
            return {row.id: _document(row) for row in rows}

    def after(self, collection: str, sequence: int, limit: int, tombstones: bool) -> list[Document]:
        """The next states in the order of writing, with or without tombstones."""
        with self._database.reading() as session:
            query = (
                sa.select(DocumentRow)
                .where(DocumentRow.collection == collection, DocumentRow.sequence > sequence)
                .order_by(DocumentRow.sequence)
                .limit(limit)
            )
            if not tombstones:
                query = query.where(DocumentRow.deleted.is_(False))
            return [_document(row) for row in session.scalars(query)]

    def count(self, collection: str, up_to: int | None = None) -> int:
        """Documents that exist, exactly; or of those, the ones written up to a sequence."""
        with self._database.reading() as session:
            query = sa.select(sa.func.count()).where(
                DocumentRow.collection == collection, DocumentRow.deleted.is_(False)
            )
            if up_to is not None:
                query = query.where(DocumentRow.sequence <= up_to)
            return session.scalar(query) or 0

    def last_sequence(self, collection: str) -> int:
        """How far the order of writing has come. Raises ``NotFound``."""
        with self._database.reading() as session:
            return _collection(session, collection).last_sequence

    # Indexes and reindexes

    def indexes(self, collection: str | None = None) -> list[Index]:
        """Indexes that exist."""
        with self._database.reading() as session:
            query = sa.select(IndexRow).where(IndexRow.state != IndexState.DROPPED.value)
            if collection is not None:
                query = query.where(IndexRow.collection == collection)
            return [_index(row) for row in session.scalars(query)]

    def index(self, index_id: str) -> Index:
        """One index. Raises ``NotFound``."""
        with self._database.reading() as session:
            row = session.get(IndexRow, index_id)
            if row is None:
                raise NotFound("index", index_id, "GetCollection lists those of a collection")
            return _index(row)

    def set_applied(self, index_id: str, sequence: int) -> None:
        """Note how far an index has come, once that is on disk."""
        with self._database.writing() as session:
            session.execute(sa.update(IndexRow).where(IndexRow.id == index_id).values(applied=sequence))

    def start_reindex(self, collection: str, encoder: Encoder, reindex_id: str) -> Reindex:
        """A new index to build, or the unfinished reindex to the same version."""
        with self._database.writing() as session:
            row = _collection(session, collection)
            unfinished = session.scalars(
                sa.select(ReindexRow)
                .join(IndexRow, ReindexRow.index_id == IndexRow.id)
                .where(
                    ReindexRow.collection == collection,
                    ReindexRow.state.in_([ReindexState.RUNNING.value, ReindexState.CAUGHT_UP.value]),
                    IndexRow.digest == encoder.version.digest,
                )
            ).first()
            if unfinished:
                return _reindex(unfinished, session.get_one(IndexRow, unfinished.index_id))
            index = _add_index(session, row, encoder, IndexState.BUILDING)
            session.flush()
            total = session.scalar(
                sa.select(sa.func.count()).where(DocumentRow.collection == collection, DocumentRow.deleted.is_(False))
            )
            reindex = ReindexRow(
                id=reindex_id,
                collection=collection,
                index_id=index.id,
                state=ReindexState.RUNNING.value,
                total=total,
            )
            session.add(reindex)
            return _reindex(reindex, index)

    def reindex(self, reindex_id: str) -> Reindex:
        """One reindex. Raises ``NotFound``."""
        with self._database.reading() as session:
            row = session.get(ReindexRow, reindex_id)
            if row is None:
                raise NotFound("reindex", reindex_id, "StartReindex returns the id of one")
            return _reindex(row, session.get_one(IndexRow, row.index_id))

    def caught_up(self, index_id: str) -> None:
        """An index that was being built now holds everything."""
        with self._database.writing() as session:
            session.execute(
                sa.update(IndexRow)
                .where(IndexRow.id == index_id, IndexRow.state == IndexState.BUILDING.value)
                .values(state=IndexState.CAUGHT_UP.value)
            )
            session.execute(
                sa.update(ReindexRow)
                .where(ReindexRow.index_id == index_id, ReindexRow.state == ReindexState.RUNNING.value)
                .values(state=ReindexState.CAUGHT_UP.value)
            )

    def cancel_reindex(self, reindex_id: str) -> Reindex:
        """End a reindex that has not been switched to; its index becomes due to be dropped."""
        with self._database.writing() as session:
            row = session.get(ReindexRow, reindex_id)
            if row is None:
                raise NotFound("reindex", reindex_id, "StartReindex returns the id of one")
            index = session.get_one(IndexRow, row.index_id)
            if index.state in (IndexState.BUILDING.value, IndexState.CAUGHT_UP.value):
                row.state = ReindexState.CANCELLED.value
                index.state, index.drop_at = IndexState.RETAINED.value, _now()
            return _reindex(row, index)

    def droppable(self) -> list[Index]:
        """Indexes whose time has come."""
        with self._database.reading() as session:
            rows = session.scalars(
                sa.select(IndexRow).where(IndexRow.state == IndexState.RETAINED.value, IndexRow.drop_at <= _now())
            )
            return [_index(row) for row in rows]

    def drop(self, index_id: str) -> bool:
        """Mark an index as dropped, unless it began to serve again meanwhile. True if it is dropped now."""
        with self._database.writing() as session:
            done = session.execute(
                sa.update(IndexRow)
                .where(
                    IndexRow.id == index_id,
                    IndexRow.state == IndexState.RETAINED.value,
                    IndexRow.drop_at <= _now(),
                )
                .values(state=IndexState.DROPPED.value)
            )
            return isinstance(done, sa.CursorResult) and bool(done.rowcount)


def _collection(session: Session, name: str, *, lock: bool = False) -> CollectionRow:
    row = session.get(CollectionRow, name, with_for_update=lock)
    if row is None:
        raise NotFound("collection", name, "ListCollections names those there are")
    return row


def _add_index(session: Session, row: CollectionRow, encoder: Encoder, state: IndexState) -> IndexRow:
    version = encoder.version
    made = session.scalar(sa.select(sa.func.count()).where(IndexRow.collection == row.name)) or 0
    index = IndexRow(
        id=f"{row.name}-{made + 1}-{version.model}-{version.number}",
        collection=row.name,
        model=version.model,
        number=version.number,
        digest=version.digest,
        dimension=encoder.dimension,
        dimensions=list(row.dimensions),
        state=state.value,
        applied=0,
        drop_at=None,
    )
    session.add(index)
    return index


def _now() -> datetime:
    return datetime.now(UTC)


def _aware(moment: datetime) -> datetime:
    # SQLite gives back what was stored in UTC without saying so.
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _version(row: IndexRow) -> Version:
    return Version(row.model, row.number, row.digest)


def _index(row: IndexRow) -> Index:
    return Index(
        id=row.id,
        collection=row.collection,
        version=_version(row),
        dimension=row.dimension,
        dimensions=tuple(row.dimensions),
        state=IndexState(row.state),
        applied=row.applied,
        drop_at=_aware(row.drop_at) if row.drop_at else None,
    )


def _route(row: RouteRow, index: IndexRow) -> Route:
    return Route(row.collection, row.generation, _version(index), row.index_id, _aware(row.since))


def _reindex(row: ReindexRow, index: IndexRow) -> Reindex:
    return Reindex(row.id, row.collection, row.index_id, _version(index), ReindexState(row.state), row.total, 0)


def _document(row: DocumentRow) -> Document:
    return Document(row.id, row.text, row.title, row.payload, row.revision, row.sequence, row.deleted)
