"""Documents in SQL, kept in the order of writing.

Each change of a document gives it the collection's next sequence number, and a delete is a change
too (a tombstone). An index is a view of that order, so one rule — apply what comes after the last
place applied — makes it follow live writes, fill a new index, and recover after a crash (I5).

Methods block: call them from a thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.kit.errors import NotFound
from services.kit.sql import Database
from services.search.adapters.tables import CollectionRow, DocumentRow, RouteRow, aware, document_of, now
from services.search.domain.model import Document


class Paused(Exception):
    """A switch is comparing counts; write again in a moment."""


@dataclass(frozen=True)
class Written:
    """A document as it is stored now, and whether that took a change."""

    document: Document
    changed: bool


class Documents:
    """The documents of all collections."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(
        self, collection: str, documents: Sequence[Document], up_to: int | None = None
    ) -> tuple[list[Written], str]:
        """Store new states of documents, durably; returns them as stored, and the index that must come to hold them.

        That is the one which serves at this place in the order of writing: whichever serves later is not
        switched to before it holds what was written until then. A document with ``deleted`` set leaves a
        tombstone. Equal content, and a revision that is not above the stored one, change nothing; nor is changed
        what was written after ``up_to``.
        Raises ``NotFound`` for the collection and ``Paused``.
        """
        with self._database.writing() as session:
            # Writers of one collection take turns, so that sequences become visible in their order.
            row = session.get(CollectionRow, collection, with_for_update=True)
            if row is None:
                raise unknown_collection(collection)
            if row.paused_until and aware(row.paused_until) > now():
                raise Paused
            wanted = {document.id for document in documents}
            found = session.scalars(
                sa.select(DocumentRow).where(DocumentRow.collection == collection, DocumentRow.id.in_(wanted))
            )
            known = {stored.id: stored for stored in found}
            if up_to is not None:
                documents = [d for d in documents if d.id in known and known[d.id].sequence <= up_to]
            serving = session.scalars(_SERVING, {"collection": collection}).one()
            return [_write(session, row, known, document) for document in documents], serving

    def existing(self, collection: str, ids: Sequence[str]) -> dict[str, Document]:
        """Those of the documents that exist."""
        with self._database.connecting() as connection:
            rows = connection.execute(_EXISTING, {"collection": collection, "ids": list(ids)})
            return {
                row.id: Document(row.id, row.text, row.title, row.payload, row.revision, row.sequence) for row in rows
            }

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
            return [document_of(row) for row in session.scalars(query)]

    def sample(self, collection: str, number: int) -> list[Document]:
        """Some documents, spread evenly over the order of writing."""
        with self._database.reading() as session:
            row = session.get(CollectionRow, collection)
            if row is None:
                raise unknown_collection(collection)
            step = max(1, row.last_sequence // max(1, number))
            picked = []
            for start in range(0, row.last_sequence, step):
                following = session.scalars(
                    sa.select(DocumentRow)
                    .where(
                        DocumentRow.collection == collection,
                        DocumentRow.sequence > start,
                        DocumentRow.sequence <= start + step,
                        DocumentRow.deleted.is_(False),
                    )
                    .order_by(DocumentRow.sequence)
                    .limit(1)
                ).first()
                if following:
                    picked.append(document_of(following))
            return picked[:number]

    def count(self, collection: str, up_to: int | None = None) -> int:
        """Documents that exist, exactly; or of those, the ones written up to a sequence."""
        with self._database.reading() as session:
            if up_to is None:
                return session.scalar(sa.select(CollectionRow.documents).where(CollectionRow.name == collection)) or 0
            query = sa.select(sa.func.count()).where(
                DocumentRow.collection == collection, DocumentRow.deleted.is_(False), DocumentRow.sequence <= up_to
            )
            return session.scalar(query) or 0

    def newest(self) -> dict[str, int]:
        """How far the order of writing of each collection has come."""
        with self._database.connecting() as connection:
            found = connection.execute(sa.select(CollectionRow.name, CollectionRow.last_sequence))
            return {row.name: row.last_sequence for row in found}

    def last_sequence(self, collection: str) -> int:
        """How far the order of writing has come. Raises ``NotFound``."""
        with self._database.reading() as session:
            found = session.scalar(sa.select(CollectionRow.last_sequence).where(CollectionRow.name == collection))
            if found is None:
                raise unknown_collection(collection)
            return found


_SERVING = (
    sa.select(RouteRow.index_id)
    .where(RouteRow.collection == sa.bindparam("collection"))
    .order_by(RouteRow.generation.desc())
    .limit(1)
)

# Compiled once: this is read for every search.
_EXISTING = (
    sa.select(
        DocumentRow.id,
        DocumentRow.text,
        DocumentRow.title,
        DocumentRow.payload,
        DocumentRow.revision,
        DocumentRow.sequence,
    )
    .where(DocumentRow.collection == sa.bindparam("collection"))
    .where(DocumentRow.id.in_(sa.bindparam("ids", expanding=True)))
    .where(DocumentRow.deleted.is_(False))
)


def _write(session: Session, row: CollectionRow, known: dict[str, DocumentRow], document: Document) -> Written:
    stored = known.get(document.id)
    if stored is not None and _holds(stored, document):
        return Written(document_of(stored), changed=False)
    if stored is None:
        if document.deleted:
            return Written(document, changed=False)
        stored = DocumentRow(collection=row.name, id=document.id, revision=0, deleted=True)
        known[document.id] = stored
        session.add(stored)
    row.last_sequence += 1
    row.documents += int(stored.deleted) - int(document.deleted)
    stored.sequence = row.last_sequence
    stored.revision = document.revision or stored.revision + 1
    stored.deleted = document.deleted
    stored.title, stored.text, stored.payload = document.title, document.text, dict(document.payload)
    return Written(document_of(stored), changed=True)


def _holds(stored: DocumentRow, document: Document) -> bool:
    """Whether writing the document would change nothing, or undo something newer."""
    if document.revision:
        return stored.revision >= document.revision
    if document.deleted or stored.deleted:
        return stored.deleted and document.deleted
    content = (stored.title, stored.text, stored.payload)
    return content == (document.title, document.text, dict(document.payload))


def unknown_collection(name: str) -> NotFound:
    """What to say of a collection that is not there."""
    return NotFound("collection", name, "ListCollections names those there are")
