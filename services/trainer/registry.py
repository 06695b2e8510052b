"""Models, their versions, and which of them replicas should hold.

Methods block: call them from a thread.
"""

from collections.abc import Mapping
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.kit.errors import NotFound
from services.kit.sql import Database
from services.trainer.domain.model import Kind, PublishedVersion
from services.trainer.tables import LeaseRow, ModelRow, ReplicaRow, VersionRow, WorkerRow, now

REPLICA_LIVE_SECONDS = 10.0
WORKER_LIVE_SECONDS = 10.0


class Registry:
    """Versions, the leases on them, and who lives: replicas and workers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def models(self) -> list[tuple[ModelRow, PublishedVersion | None]]:
        """All models with the newest version of each."""
        with self._database.reading() as session:
            found = []
            for model in session.scalars(sa.select(ModelRow).order_by(ModelRow.name)):
                newest = session.scalars(
                    sa.select(VersionRow).where(VersionRow.model == model.name).order_by(VersionRow.number.desc())
                ).first()
                found.append((model, _version(newest) if newest else None))
            return found

    def versions(self, model: str) -> list[tuple[VersionRow, list[str]]]:
        """A model's versions, newest first, each with its leases. Raises ``NotFound``."""
        with self._database.reading() as session:
            if session.get(ModelRow, model) is None:
                raise NotFound("model", model, "ListModels names those there are")
            rows = session.scalars(
                sa.select(VersionRow).where(VersionRow.model == model).order_by(VersionRow.number.desc())
            ).all()
            return [(row, _leases(session, row.digest)) for row in rows]

    def version(self, digest: str = "", model: str = "", number: int = 0) -> PublishedVersion:
        """One version, by digest or by model and number. Raises ``NotFound``."""
        with self._database.reading() as session:
            query = sa.select(VersionRow)
            query = (
                query.where(VersionRow.digest == digest)
                if digest
                else query.where(VersionRow.model == model, VersionRow.number == number)
            )
            row = session.scalars(query).first()
            if row is None:
                name = digest or f"{model}/{number}"
                raise NotFound("version", name, "ListVersions names those of a model")
            return _version(row)

    def next_number(self, model: str) -> int:
        """A version number that nobody else gets."""
        with self._database.writing() as session:
            row = session.get_one(ModelRow, model, with_for_update=True)
            row.last_number += 1
            return row.last_number

    def publish(self, version: PublishedVersion, lease: str) -> None:
        """Enter a version whose manifest is in the store. Again is harmless."""
        with self._database.writing() as session:
            if session.get(VersionRow, version.digest) is None:
                session.add(
                    VersionRow(
                        digest=version.digest,
                        model=version.model,
                        number=version.number,
                        kind=version.kind.value,
                        path=version.path,
                        dimension=version.dimension,
                        dimensions=list(version.dimensions),
                        parent_digest=version.parent_digest,
                        run_id=version.run_id,
                        published_at=now(),
                    )
                )
                session.flush()
            if lease:
                session.merge(LeaseRow(digest=version.digest, holder=lease))

    def desired(self) -> list[PublishedVersion]:
        """The versions that replicas should hold: all under a lease."""
        with self._database.reading() as session:
            leased = sa.select(LeaseRow.digest).distinct()
            rows = session.scalars(
                sa.select(VersionRow).where(VersionRow.digest.in_(leased)).order_by(VersionRow.published_at)
            )
            return [_version(row) for row in rows]

    def sync_index_leases(self, held: Mapping[str, str]) -> None:
        """Make the leases of indexes exactly these: holder → digest. Versions not ours are left out."""
        with self._database.writing() as session:
            known = set(session.scalars(sa.select(VersionRow.digest)))
            wanted = {(digest, holder) for holder, digest in held.items() if digest in known}
            rows = session.scalars(sa.select(LeaseRow).where(LeaseRow.holder.startswith("index:"))).all()
            for row in rows:
                if (row.digest, row.holder) not in wanted:
                    session.delete(row)
            present = {(row.digest, row.holder) for row in rows}
            session.add_all(LeaseRow(digest=d, holder=h) for d, h in wanted - present)

    def report(self, replica_id: str, versions: Mapping[str, tuple[int, str]]) -> None:
        """What a replica says of its versions: digest → (state by the contract's number, reason)."""
        with self._database.writing() as session:
            listed = [[digest, state, reason] for digest, (state, reason) in versions.items()]
            session.merge(ReplicaRow(id=replica_id, seen_at=now(), versions=listed))

    def replicas(self) -> dict[str, dict[str, tuple[int, str]]]:
        """Live replicas, and what each said last of its versions."""
        with self._database.reading() as session:
            since = now() - timedelta(seconds=REPLICA_LIVE_SECONDS)
            rows = session.scalars(sa.select(ReplicaRow).where(ReplicaRow.seen_at >= since))
            return {row.id: {digest: (state, reason) for digest, state, reason in row.versions} for row in rows}

    def worker_alive(self, name: str) -> None:
        """A worker's heartbeat."""
        with self._database.writing() as session:
            session.merge(WorkerRow(name=name, seen_at=now()))

    def workers(self) -> list[str]:
        """Workers that live."""
        with self._database.reading() as session:
            since = now() - timedelta(seconds=WORKER_LIVE_SECONDS)
            return list(session.scalars(sa.select(WorkerRow.name).where(WorkerRow.seen_at >= since)))


def _leases(session: Session, digest: str) -> list[str]:
    return list(session.scalars(sa.select(LeaseRow.holder).where(LeaseRow.digest == digest).order_by(LeaseRow.holder)))


def _version(row: VersionRow) -> PublishedVersion:
    return PublishedVersion(
        row.model,
        row.number,
        row.digest,
        Kind(row.kind),
        row.path,
        row.dimension,
        tuple(row.dimensions),
        row.parent_digest,
        row.run_id,
    )
