"""The trainer's tables, and the rules of ownership over jobs (I7).

A run or a rollout is a row. Whoever works on it claims it: a lease that must be renewed and a
fence that grows with each claim. A writer whose fence is no longer the row's has lost the job
and its write does nothing but raise `LostJob`.

Methods block: call them from a thread.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from services.kit.errors import AlreadyExists, NotFound
from services.kit.sql import Database
from services.trainer.domain.model import (
    ROLLOUT_ACTIVE,
    ROLLOUT_ENDED,
    Kind,
    PublishedVersion,
    RolloutState,
    RunKind,
    RunState,
)

LEASE_SECONDS = 15.0
REPLICA_LIVE_SECONDS = 10.0
WORKER_LIVE_SECONDS = 10.0
MAX_ATTEMPTS = 3


class LostJob(Exception):
    """Another worker has taken the job over."""


class Base(DeclarativeBase):
    """The trainer's tables."""

    type_annotation_map = {  # noqa: RUF012
        dict[str, Any]: sa.JSON,
        list[Any]: sa.JSON,
        datetime: sa.DateTime(timezone=True),
    }


class ModelRow(Base):
    """A lineage. ``last_number`` is the highest version number given out."""

    __tablename__ = "models"
    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    source: Mapped[str]
    last_number: Mapped[int]
    created_at: Mapped[datetime]


class VersionRow(Base):
    """A published version. Never changes."""

    __tablename__ = "versions"
    __table_args__ = (sa.UniqueConstraint("model", "number"),)
    digest: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(sa.ForeignKey("models.name"))
    number: Mapped[int]
    kind: Mapped[str]
    path: Mapped[str]
    dimension: Mapped[int]
    dimensions: Mapped[list[Any]]
    parent_digest: Mapped[str]
    run_id: Mapped[str]
    published_at: Mapped[datetime]


class LeaseRow(Base):
    """A reason why a version must stay resident."""

    __tablename__ = "leases"
    digest: Mapped[str] = mapped_column(sa.ForeignKey("versions.digest"), primary_key=True)
    holder: Mapped[str] = mapped_column(primary_key=True)


class ReplicaRow(Base):
    """What an embedder replica said last; ``versions`` lists digest, state and reason."""

    __tablename__ = "replicas"
    id: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]
    versions: Mapped[list[Any]]


class WorkerRow(Base):
    """A worker process that lives."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]


class _Job:
    """Columns of ownership. ``revision`` grows with every change; watchers look at it."""

    id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    progress: Mapped[float] = mapped_column(default=0.0)
    message: Mapped[str] = mapped_column(sa.Text, default="")
    stop_requested: Mapped[bool] = mapped_column(default=False)
    attempts: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    revision: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class RunRow(_Job, Base):
    """A run. ``request`` is what was asked; ``data``, ``losses`` and ``gate`` what came of it."""

    __tablename__ = "runs"
    kind: Mapped[str]
    stage: Mapped[str]
    collection: Mapped[str]
    model: Mapped[str]
    current_digest: Mapped[str]
    published_digest: Mapped[str]
    rollout_id: Mapped[str]
    request: Mapped[dict[str, Any]]
    data: Mapped[dict[str, Any]]
    losses: Mapped[list[Any]]
    gate: Mapped[dict[str, Any]]


class RolloutRow(_Job, Base):
    """A rollout. ``history`` lists states with the time each began."""

    __tablename__ = "rollouts"
    collection: Mapped[str]
    from_digest: Mapped[str]
    to_digest: Mapped[str]
    run_id: Mapped[str]
    reindex_id: Mapped[str]
    index_id: Mapped[str]
    generation: Mapped[int]
    history: Mapped[list[Any]]


JobRow = TypeVar("JobRow", RunRow, RolloutRow)


class Store:
    """Everything the trainer keeps in SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Models and versions

    def register(self, name: str, kind: Kind, source: str, request: dict[str, Any]) -> RunRow:
        """A new model, and the queued run that imports it. Raises ``AlreadyExists``.

        A model whose import failed may be registered again.
        """
        with self._database.writing() as session:
            model = session.get(ModelRow, name)
            if model is not None:
                unfinished = [RunState.QUEUED.value, RunState.RUNNING.value]
                taken = session.scalar(sa.select(VersionRow.digest).where(VersionRow.model == name).limit(1)) or (
                    session.scalar(
                        sa.select(RunRow.id).where(RunRow.model == name, RunRow.state.in_(unfinished)).limit(1)
                    )
                )
                if taken:
                    raise AlreadyExists("model", name, "choose another name, or use the one that exists")
                session.delete(model)
                session.flush()
            session.add(ModelRow(name=name, kind=kind.value, source=source, last_number=0, created_at=_now()))
            run = _new_run(RunKind.IMPORT, name, request)
            session.add(run)
            return run

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
                        published_at=_now(),
                    )
                )
                session.flush()
            if lease:
                session.merge(LeaseRow(digest=version.digest, holder=lease))

    # Leases and replicas

    def leases(self) -> list[LeaseRow]:
        """All leases."""
        with self._database.reading() as session:
            return list(session.scalars(sa.select(LeaseRow)))

    def lease(self, digest: str, holder: str) -> None:
        """Keep a version resident for a reason."""
        with self._database.writing() as session:
            session.merge(LeaseRow(digest=digest, holder=holder))

    def release(self, holder: str, digest: str = "") -> None:
        """End a lease."""
        with self._database.writing() as session:
            query = sa.delete(LeaseRow).where(LeaseRow.holder == holder)
            session.execute(query.where(LeaseRow.digest == digest) if digest else query)

    def desired(self) -> list[PublishedVersion]:
        """The versions that replicas should hold: all under a lease."""
        with self._database.reading() as session:
            leased = sa.select(LeaseRow.digest).distinct()
            rows = session.scalars(
                sa.select(VersionRow).where(VersionRow.digest.in_(leased)).order_by(VersionRow.published_at)
            )
            return [_version(row) for row in rows]

    def report(self, replica_id: str, versions: Mapping[str, tuple[int, str]]) -> None:
        """What a replica says of its versions: digest → (state by the contract's number, reason)."""
        with self._database.writing() as session:
            listed = [[digest, state, reason] for digest, (state, reason) in versions.items()]
            session.merge(ReplicaRow(id=replica_id, seen_at=_now(), versions=listed))

    def replicas(self) -> dict[str, dict[str, tuple[int, str]]]:
        """Live replicas, and what each said last of its versions."""
        with self._database.reading() as session:
            since = _now() - timedelta(seconds=REPLICA_LIVE_SECONDS)
            rows = session.scalars(sa.select(ReplicaRow).where(ReplicaRow.seen_at >= since))
            return {row.id: {digest: (state, reason) for digest, state, reason in row.versions} for row in rows}

    # Workers

    def worker_alive(self, name: str) -> None:
        """A worker's heartbeat."""
        with self._database.writing() as session:
            session.merge(WorkerRow(name=name, seen_at=_now()))

    def workers(self) -> list[str]:
        """Workers that live."""
        with self._database.reading() as session:
            since = _now() - timedelta(seconds=WORKER_LIVE_SECONDS)
            return list(session.scalars(sa.select(WorkerRow.name).where(WorkerRow.seen_at >= since)))

    # Runs and rollouts

    def add_run(self, collection: str, model: str, current_digest: str, request: dict[str, Any]) -> RunRow:
        """A queued fine-tuning run."""
        with self._database.writing() as session:
            run = _new_run(RunKind.FINE_TUNE, model, request)
            run.collection, run.current_digest = collection, current_digest
            session.add(run)
            return run

    def active_run(self, collection: str) -> RunRow | None:
        """The unfinished run of a collection."""
        with self._database.reading() as session:
            states = [RunState.QUEUED.value, RunState.RUNNING.value]
            return session.scalars(
                sa.select(RunRow).where(RunRow.collection == collection, RunRow.state.in_(states))
            ).first()

    def add_rollout(self, collection: str, from_digest: str, to_digest: str, run_id: str = "") -> RolloutRow:
        """A rollout, with the lease that keeps its version resident. One run gets one rollout."""
        with self._database.writing() as session:
            if run_id:
                known = session.scalars(sa.select(RolloutRow).where(RolloutRow.run_id == run_id)).first()
                if known:
                    return known
            rollout = RolloutRow(
                id=uuid.uuid4().hex,
                state=RolloutState.LOADING.value,
                lease_until=None,
                created_at=_now(),
                started_at=None,
                ended_at=None,
                collection=collection,
                from_digest=from_digest,
                to_digest=to_digest,
                run_id=run_id,
                reindex_id="",
                index_id="",
                generation=0,
                history=[_moment(RolloutState.LOADING)],
            )
            session.add(rollout)
            session.merge(LeaseRow(digest=to_digest, holder=f"rollout:{rollout.id}"))
            return rollout

    def active_rollout(self, collection: str) -> RolloutRow | None:
        """The rollout of a collection that has not switched and watched yet."""
        with self._database.reading() as session:
            states = [state.value for state in ROLLOUT_ACTIVE]
            return session.scalars(
                sa.select(RolloutRow).where(RolloutRow.collection == collection, RolloutRow.state.in_(states))
            ).first()

    def retiring(self) -> list[RolloutRow]:
        """Rollouts that wait for the retention window to end."""
        with self._database.reading() as session:
            return list(session.scalars(sa.select(RolloutRow).where(RolloutRow.state == RolloutState.RETIRING.value)))

    def get(self, kind: type[JobRow], job_id: str) -> JobRow:
        """A run or a rollout. Raises ``NotFound``."""
        with self._database.reading() as session:
            row = session.get(kind, job_id)
            if row is None:
                word = "run" if kind is RunRow else "rollout"
                raise NotFound(word, job_id, "`diapason runs` lists what there is")
            return row

    def runs(self, limit: int) -> list[RunRow]:
        """Newest first."""
        with self._database.reading() as session:
            return list(session.scalars(sa.select(RunRow).order_by(RunRow.created_at.desc()).limit(limit)))

    def waiting(self) -> tuple[list[str], list[str]]:
        """Ids of the runs and the rollouts that nobody works on."""
        with self._database.reading() as session:

            def idle(kind: type[RunRow] | type[RolloutRow], states: Sequence[str]) -> list[str]:
                free = sa.or_(kind.lease_until.is_(None), kind.lease_until < _now())
                return list(session.scalars(sa.select(kind.id).where(kind.state.in_(states), free)))

            runs = idle(RunRow, [RunState.QUEUED.value, RunState.RUNNING.value])
            return runs, idle(RolloutRow, [state.value for state in ROLLOUT_ACTIVE])

    def claim(self, kind: type[JobRow], job_id: str) -> JobRow | None:
        """Take a job that nobody works on, or None. A job tried too often fails instead."""
        active = (
            {RunState.QUEUED.value, RunState.RUNNING.value} if kind is RunRow else {s.value for s in ROLLOUT_ACTIVE}
        )
        with self._database.writing() as session:
            row = session.get(kind, job_id, with_for_update=True)
            if row is None or row.state not in active or (row.lease_until and _aware(row.lease_until) > _now()):
                return None
            row.attempts += 1
            row.fence += 1
            row.revision += 1
            if row.attempts > MAX_ATTEMPTS:
                row.state = RunState.FAILED.value  # the same word for both
                row.ended_at = _now()
                row.message = f"given up after {MAX_ATTEMPTS} attempts; the log says why. Last: {row.message}"
                return None
            row.lease_until = _now() + timedelta(seconds=LEASE_SECONDS)
            row.started_at = row.started_at or _now()
            if isinstance(row, RunRow):
                row.state = RunState.RUNNING.value
            return row

    def update(self, row: JobRow, **changes: Any) -> JobRow:
        """Write to a job that is ours and renew the lease. Raises ``LostJob``."""
        with self._database.writing() as session:
            fresh = _owned(session, row)
            for name, value in changes.items():
                setattr(fresh, name, value)
            fresh.lease_until = _now() + timedelta(seconds=LEASE_SECONDS)
            if changes:
                fresh.revision += 1
            return fresh

    def enter(self, row: RolloutRow, state: RolloutState) -> RolloutRow:
        """Bring a rollout that is ours into its next state. Raises ``LostJob``."""
        history = [*row.history, _moment(state)]
        return self.update(row, state=state.value, progress=0.0, message="", history=history)

    def let_go(self, row: JobRow) -> None:
        """Give a job back unfinished, without counting the attempt: the worker is shutting down."""
        with self._database.writing() as session:
            fresh = _owned(session, row)
            fresh.lease_until = None
            fresh.attempts -= 1
            if isinstance(fresh, RunRow):
                fresh.state = RunState.QUEUED.value

    def end(self, row: JobRow, state: RunState | RolloutState, message: str, **changes: Any) -> JobRow:
        """Write the end of a job that is ours. Raises ``LostJob``."""
        with self._database.writing() as session:
            return _end(_owned(session, row), state, message, changes)

    def end_retired(self, rollout_id: str) -> None:
        """End a rollout whose old index is gone, its lease, and the old version's lease as an import."""
        with self._database.writing() as session:
            row = session.get_one(RolloutRow, rollout_id)
            if row.state == RolloutState.RETIRING.value:
                _end(row, RolloutState.DONE, "the old version is retired", {})
                ended = sa.or_(
                    LeaseRow.holder == f"rollout:{row.id}",
                    sa.and_(LeaseRow.holder == "import", LeaseRow.digest == row.from_digest),
                )
                session.execute(sa.delete(LeaseRow).where(ended))

    def roll_back(self, rollout_id: str, message: str) -> RolloutRow:
        """Note that a switched rollout was taken back."""
        with self._database.writing() as session:
            return _end(session.get_one(RolloutRow, rollout_id), RolloutState.ROLLED_BACK, message, {})

    def request_stop(self, kind: type[JobRow], job_id: str) -> JobRow:
        """Ask a job to stop. A run that nobody works on ends at once."""
        self.get(kind, job_id)
        with self._database.writing() as session:
            row = session.get_one(kind, job_id)
            row.stop_requested = True
            row.revision += 1
            if isinstance(row, RunRow) and row.state == RunState.QUEUED.value:
                _end(row, RunState.CANCELLED, "cancelled before it began", {})
            return row

    def note(self, kind: type[RunRow] | type[RolloutRow], job_id: str, message: str) -> None:
        """Say of a job that nobody works on why that is."""
        with self._database.writing() as session:
            row = session.get(kind, job_id)
            if isinstance(row, RunRow | RolloutRow) and row.message != message:
                row.message = message
                row.revision += 1

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


def _new_run(kind: RunKind, model: str, request: dict[str, Any]) -> RunRow:
    return RunRow(
        id=uuid.uuid4().hex,
        state=RunState.QUEUED.value,
        lease_until=None,
        created_at=_now(),
        started_at=None,
        ended_at=None,
        kind=kind.value,
        stage="unspecified",
        collection="",
        model=model,
        current_digest="",
        published_digest="",
        rollout_id="",
        request=request,
        data={},
        losses=[],
        gate={},
        message="waits for a worker",
    )


def _owned(session: Session, row: JobRow) -> JobRow:
    fresh = session.get_one(type(row), row.id, with_for_update=True)
    ended = {s.value for s in ROLLOUT_ENDED} | {
        RunState.SUCCEEDED.value,
        RunState.FAILED.value,
        RunState.CANCELLED.value,
    }
    if fresh.fence != row.fence or fresh.state in ended:
        raise LostJob(f"{row.id} is no longer ours")
    return fresh


def _end(row: JobRow, state: RunState | RolloutState, message: str, changes: Mapping[str, Any]) -> JobRow:
    for name, value in changes.items():
        setattr(row, name, value)
    row.state, row.message, row.ended_at, row.lease_until = state.value, message, _now(), None
    row.progress = 1.0
    row.revision += 1
    if isinstance(row, RolloutRow) and isinstance(state, RolloutState):
        row.history = [*row.history, _moment(state)]
    return row


def _moment(state: RolloutState) -> list[str]:
    """An entry of a rollout's history."""
    return [state.value, _now().isoformat()]


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


def _now() -> datetime:
    return datetime.now(UTC)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
