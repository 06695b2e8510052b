"""The catalog in SQL: collections, routes, indexes and who keeps them, reindexes.

Several search processes may share it: whatever must be decided by one of them is a conditional
update here. Methods block: call them from a thread.
"""

import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from services.kit.errors import AlreadyExists, Conflict, NotFound
from services.kit.sql import Database, retried
from services.search.adapters.documents import unknown_collection
from services.search.adapters.tables import (
    CollectionRow,
    DocumentRow,
    IdentityRow,
    IndexRow,
    ReindexRow,
    RouteRow,
    aware,
    index_of,
    now,
    reindex_of,
    route_of,
    settings_of,
    to_json,
)
from services.search.domain.model import (
    Encoder,
    FieldType,
    Index,
    IndexState,
    Reindex,
    ReindexState,
    Route,
    Settings,
    Version,
)
from services.search.domain.rules import stale_generation

_UNFINISHED = (ReindexState.RUNNING.value, ReindexState.CAUGHT_UP.value)


class LostLease(Exception):
    """Another process keeps the index now."""


class Catalog:
    """All that search keeps in SQL, but for the documents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def identity(self) -> str:
        """What tells this catalog from others."""
        with self._database.reading() as session:
            return session.scalars(sa.select(IdentityRow.id)).one()

    # Collections and routes

    def create_collection(
        self, name: str, settings: Settings, encoder: Encoder, importing: float | None = None
    ) -> None:
        """A new collection with an empty index and its first route. Raises ``AlreadyExists``.

        With ``importing``, seconds, it is abandoned after them unless `keep_importing` or `imported` is called.
        """
        try:
            with self._database.writing() as session:
                row = CollectionRow(
                    name=name,
                    dimensions=list(settings.dimensions),
                    retention=settings.retention,
                    settings=to_json(settings),
                    last_sequence=0,
                    documents=0,
                    paused_by="",
                    importing_until=None if importing is None else now() + timedelta(seconds=importing),
                )
                session.add(row)
                session.flush()
                index = _add_index(session, row, encoder, IndexState.SERVING, 0.0)
                session.flush()
                session.add(RouteRow(collection=name, generation=1, index_id=index.id, since=now()))
        except IntegrityError as error:
            raise AlreadyExists("collection", name, "choose another name, or use the one that exists") from error

    def update_collection(self, name: str, retention: float | None, fields: Mapping[str, FieldType]) -> None:
        """Change the retention and declare further fields. Raises ``NotFound``."""
        with self._database.writing() as session:
            row = _collection(session, name, lock=True)
            if retention is not None:
                row.retention = retention
            settings = settings_of(row)
            settings = replace(settings, fields={**settings.fields, **fields})
            row.settings = to_json(settings)

    def keep_importing(self, names: Collection[str], seconds: float) -> None:
        """These have not come whole yet, but are not abandoned for so long."""
        until = now() + timedelta(seconds=seconds)
        unfinished = CollectionRow.name.in_(names), CollectionRow.importing_until.is_not(None)
        with self._database.writing() as session:
            session.execute(sa.update(CollectionRow).where(*unfinished).values(importing_until=until))

    def imported(self, name: str) -> None:
        """It has come whole. Raises ``NotFound``."""
        with self._database.writing() as session:
            _collection(session, name, lock=True).importing_until = None

    def abandoned(self) -> list[str]:
        """Collections that did not come whole, and that nobody takes in any more."""
        with self._database.reading() as session:
            return list(session.scalars(sa.select(CollectionRow.name).where(CollectionRow.importing_until <= now())))

    @retried
    def delete_collection(self, name: str, *, abandoned: bool = False) -> tuple[list[str], int]:
        """Forget a collection, or only if it is abandoned; returns its indexes, left to drop, and its documents."""
        with self._database.writing() as session:
            row = _collection(session, name, lock=True)
            if abandoned and not (row.importing_until and aware(row.importing_until) <= now()):
                return [], 0
            documents = row.documents
            indexes = _locked(session, IndexRow.collection == name)
            for table in (RouteRow, ReindexRow, IndexRow, DocumentRow):
                session.execute(sa.delete(table).where(table.collection == name))
            session.delete(row)
            return indexes, documents

    def knows(self, collection: str) -> bool:
        """Whether there is such a collection."""
        with self._database.reading() as session:
            return session.get(CollectionRow, collection) is not None

    def serving(self) -> dict[str, tuple[Route, Settings]]:
        """What serves each collection now."""
        with self._database.reading() as session:
            newest = (
                sa.select(RouteRow.collection, sa.func.max(RouteRow.generation).label("generation"))
                .group_by(RouteRow.collection)
                .subquery()
            )
            rows = session.execute(
                sa.select(RouteRow, IndexRow, CollectionRow)
                .join(
                    newest,
                    sa.and_(RouteRow.collection == newest.c.collection, RouteRow.generation == newest.c.generation),
                )
                .join(IndexRow, RouteRow.index_id == IndexRow.id)
                .join(CollectionRow, RouteRow.collection == CollectionRow.name)
            ).all()
            return {route.collection: (route_of(route, index), settings_of(row)) for route, index, row in rows}

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
            return [route_of(route, index) for route, index in rows]

    def pause(self, collection: str, seconds: float, owner: str) -> int:
        """Make writers of every process wait, for so long at most; returns the newest sequence."""
        with self._database.writing() as session:
            row = _collection(session, collection, lock=True)
            row.paused_until, row.paused_by = now() + timedelta(seconds=seconds), owner
            return row.last_sequence

    def resume(self, collection: str) -> None:
        """Let writers go on."""
        with self._database.writing() as session:
            session.execute(sa.update(CollectionRow).where(CollectionRow.name == collection).values(paused_until=None))

    @retried
    def resume_all(self, owner: str) -> None:
        """Let writers go on whom ``owner`` made wait before it was killed."""
        with self._database.writing() as session:
            session.execute(sa.update(CollectionRow).where(CollectionRow.paused_by == owner).values(paused_until=None))

    @retried
    def switch(
        self, collection: str, index_id: str, expected_generation: int, newest: int | None, reranker: Version | None
    ) -> Route:
        """Make an index and a reranker serve, if nobody switched or (with ``newest``) wrote meanwhile.

        Writers go on afterwards. Raises ``Conflict``.
        """
        changed = stale_generation(collection, expected_generation)
        try:
            with self._database.writing() as session:
                row = _collection(session, collection, lock=True)
                current = session.scalars(
                    sa.select(RouteRow).where(RouteRow.collection == collection).order_by(RouteRow.generation.desc())
                ).first()
                if current is None or current.generation != expected_generation:
                    raise changed
                if newest is not None and row.last_sequence != newest:
                    raise Conflict(f"documents of {collection!r} were written during the switch; try again")
                # Locked, so that neither is dropped or cancelled meanwhile.
                _locked(session, IndexRow.id.in_({index_id, current.index_id}))
                index, previous = (
                    session.get_one(IndexRow, name, populate_existing=True) for name in (index_id, current.index_id)
                )
                if index.state == IndexState.DROPPED.value:
                    raise NotFound("index", index_id, f"it was dropped; GetCollection lists those of {collection!r}")
                if previous.id != index.id:
                    previous.state = IndexState.RETAINED.value
                    previous.drop_at = now() + timedelta(seconds=row.retention)
                index.state, index.drop_at = IndexState.SERVING.value, None
                row.paused_until = None
                route = RouteRow(
                    collection=collection,
                    generation=expected_generation + 1,
                    index_id=index_id,
                    since=now(),
                    reranker=asdict(reranker) if reranker else None,
                )
                session.add(route)
                session.execute(
                    sa.update(ReindexRow)
                    .where(ReindexRow.index_id == index_id, ReindexRow.state.in_(_UNFINISHED))
                    .values(state=ReindexState.SWITCHED.value)
                )
                return route_of(route, index)
        except IntegrityError as error:
            raise changed from error

    # Indexes and who keeps them

    def indexes(self, collection: str | None = None) -> list[Index]:
        """Indexes that exist."""
        with self._database.reading() as session:
            query = (
                sa.select(IndexRow, CollectionRow)
                .join(CollectionRow, IndexRow.collection == CollectionRow.name)
                .where(IndexRow.state != IndexState.DROPPED.value)
            )
            if collection is not None:
                query = query.where(IndexRow.collection == collection)
            return [index_of(index, settings_of(row)) for index, row in session.execute(query)]

    def index(self, index_id: str) -> Index:
        """One index. Raises ``NotFound``."""
        with self._database.reading() as session:
            row = session.get(IndexRow, index_id)
            if row is None:
                raise NotFound("index", index_id, "GetCollection lists those of a collection")
            return index_of(row, settings_of(_collection(session, row.collection)))

    @retried
    def claim(self, owner: str, seconds: float) -> dict[str, int]:
        """Keep what ``owner`` keeps for so long, take what nobody keeps, and return all with their tokens."""
        with self._database.writing() as session:
            moment = now()
            alive = IndexRow.state != IndexState.DROPPED.value
            until = moment + timedelta(seconds=seconds)
            free = sa.or_(IndexRow.leased_until.is_(None), IndexRow.leased_until < moment)
            _locked(session, alive, sa.or_(IndexRow.owner == owner, free))
            session.execute(
                sa.update(IndexRow)
                .where(alive, IndexRow.owner != owner, free)
                .values(owner=owner, token=IndexRow.token + 1)
            )
            session.execute(sa.update(IndexRow).where(alive, IndexRow.owner == owner).values(leased_until=until))
            kept = session.execute(sa.select(IndexRow.id, IndexRow.token).where(alive, IndexRow.owner == owner))
            return {row.id: row.token for row in kept}

    @retried
    def release(self, owner: str) -> None:
        """Let another process take at once what ``owner`` keeps."""
        with self._database.writing() as session:
            session.execute(sa.update(IndexRow).where(IndexRow.owner == owner).values(leased_until=None))

    @retried
    def set_applied(self, index_id: str, token: int, sequence: int, rate: float = 0.0) -> None:
        """Note how far an index has come, once that is on disk. Raises ``LostLease``."""
        with self._database.writing() as session:
            _update_kept(session, index_id, token, applied=sequence)
            session.execute(sa.update(ReindexRow).where(ReindexRow.index_id == index_id).values(rate=rate))

    def forget_applied(self, index_id: str) -> None:
        """An index is to be filled from the beginning; whoever keeps it finds the lease lost, and learns it so."""
        with self._database.writing() as session:
            anew = {"applied": 0, "token": IndexRow.token + 1}
            session.execute(sa.update(IndexRow).where(IndexRow.id == index_id).values(anew))

    def set_fields(self, index_id: str, token: int, fields: Mapping[str, FieldType]) -> None:
        """Note that all points of an index have these fields. Raises ``LostLease``."""
        with self._database.writing() as session:
            _update_kept(session, index_id, token, fields=sorted(fields))

    @retried
    def caught_up(self, index_id: str, token: int) -> None:
        """An index that was being built now holds everything. Raises ``LostLease``."""
        with self._database.writing() as session:
            row = session.get(IndexRow, index_id, with_for_update=True)
            if row is None or row.token != token:
                raise LostLease
            if row.state == IndexState.BUILDING.value:
                row.state = IndexState.CAUGHT_UP.value
            session.execute(
                sa.update(ReindexRow)
                .where(ReindexRow.index_id == index_id, ReindexRow.state == ReindexState.RUNNING.value)
                .values(state=ReindexState.CAUGHT_UP.value)
            )

    def droppable(self) -> list[Index]:
        """Indexes whose time has come."""
        return [
            index
            for index in self.indexes()
            if index.state is IndexState.RETAINED and index.drop_at and index.drop_at <= now()
        ]

    def drop(self, index_id: str) -> bool:
        """Mark an index as dropped, unless it began to serve again meanwhile. True if it is dropped now."""
        with self._database.writing() as session:
            row = session.get(IndexRow, index_id, with_for_update=True)
            if row is None or row.state != IndexState.RETAINED.value:
                return False
            if row.drop_at is None or aware(row.drop_at) > now():
                return False
            row.state = IndexState.DROPPED.value
            return True

    # Reindexes

    def start_reindex(self, collection: str, encoder: Encoder, max_rate: float) -> Reindex:
        """A new index to build, or the unfinished reindex to the same version."""
        with self._database.writing() as session:
            row = _collection(session, collection, lock=True)
            unfinished = session.scalars(
                sa.select(ReindexRow)
                .join(IndexRow, ReindexRow.index_id == IndexRow.id)
                .where(
                    ReindexRow.collection == collection,
                    ReindexRow.state.in_(_UNFINISHED),
                    IndexRow.state.in_((IndexState.BUILDING.value, IndexState.CAUGHT_UP.value)),
                    IndexRow.digest == encoder.version.digest,
                )
            ).first()
            if unfinished:
                index = session.get_one(IndexRow, unfinished.index_id)
                index.max_rate = max_rate
                return reindex_of(unfinished, index)
            index = _add_index(session, row, encoder, IndexState.BUILDING, max_rate)
            session.flush()
            reindex = ReindexRow(
                id=uuid.uuid4().hex,
                collection=collection,
                index_id=index.id,
                state=ReindexState.RUNNING.value,
                total=row.documents,
                rate=0.0,
            )
            session.add(reindex)
            return reindex_of(reindex, index)

    def reindex(self, reindex_id: str) -> Reindex:
        """One reindex. Raises ``NotFound``."""
        with self._database.reading() as session:
            row = _reindex(session, reindex_id)
            return reindex_of(row, session.get_one(IndexRow, row.index_id))

    @retried
    def cancel_reindex(self, reindex_id: str) -> Reindex:
        """End a reindex that has not been switched to; its index becomes due to be dropped."""
        with self._database.writing() as session:
            # Locked in the order in which a switch locks: the collection, then the index.
            _collection(session, _reindex(session, reindex_id).collection, lock=True)
            row = _reindex(session, reindex_id)
            index = session.get_one(IndexRow, row.index_id, with_for_update=True, populate_existing=True)
            if index.state in (IndexState.BUILDING.value, IndexState.CAUGHT_UP.value):
                row.state = ReindexState.CANCELLED.value
                index.state, index.drop_at = IndexState.RETAINED.value, now()
            return reindex_of(row, index)


def _collection(session: Session, name: str, *, lock: bool = False) -> CollectionRow:
    row = session.get(CollectionRow, name, with_for_update=lock)
    if row is None:
        raise unknown_collection(name)
    return row


def _locked(session: Session, *which: sa.ColumnElement[bool]) -> list[str]:
    """Indexes, locked in the one order in which everybody does, and before their reindexes."""
    return list(session.scalars(sa.select(IndexRow.id).where(*which).order_by(IndexRow.id).with_for_update()))


def _reindex(session: Session, reindex_id: str) -> ReindexRow:
    row = session.get(ReindexRow, reindex_id)
    if row is None:
        raise NotFound("reindex", reindex_id, "StartReindex returns the id of one")
    return row


def _update_kept(session: Session, index_id: str, token: int, **values: object) -> None:
    done = session.execute(sa.update(IndexRow).where(IndexRow.id == index_id, IndexRow.token == token).values(**values))
    if not (isinstance(done, sa.CursorResult) and done.rowcount):
        raise LostLease


def _add_index(session: Session, row: CollectionRow, encoder: Encoder, state: IndexState, max_rate: float) -> IndexRow:
    version = encoder.version
    index = IndexRow(
        # Never used twice: what is left of a deleted collection must not be taken for a new one's.
        id=f"{row.name}-{version.model}-{version.number}-{uuid.uuid4().hex[:8]}",
        collection=row.name,
        model=version.model,
        number=version.number,
        digest=version.digest,
        dimension=encoder.dimension,
        dimensions=list(row.dimensions),
        # Whatever is written to it has all fields from the beginning.
        fields=sorted(settings_of(row).fields),
        state=state.value,
        applied=0,
        drop_at=None,
        max_rate=max_rate,
        owner="",
        token=0,
    )
    session.add(index)
    return index
