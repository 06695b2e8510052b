"""Runs and rollouts as rows, and the rules of ownership over them (I7).

Whoever works on a job claims it: a lease that must be renewed and a fence that grows with each
claim. A writer whose fence is no longer the row's has lost the job and its write does nothing
but raise `LostJob`.

Methods block: call them from a thread.
"""

import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from services.kit.errors import AlreadyExists, FailedPrecondition, NotFound
from services.kit.sql import Database
from services.trainer.domain.model import ROLLOUT_ACTIVE, ROLLOUT_ENDED, Kind, RolloutState, RunKind, RunState
from services.trainer.tables import LeaseRow, ModelRow, RolloutRow, RunRow, VersionRow, aware, now

log = structlog.get_logger()

LEASE_SECONDS = 15.0
MAX_ATTEMPTS = 3
# Whoever starts something looks first whether something else is at it.
_STARTS = 7074
# Holders of leases that outlive their rollout.
_KEPT = "kept:"


class LostJob(Exception):
    """Another worker has taken the job over."""


JobRow = TypeVar("JobRow", RunRow, RolloutRow)


def worn_out(row: RunRow | RolloutRow) -> str:
    """Why a claimed job should be given up instead of tried once more; empty if it should not."""
    if row.attempts <= MAX_ATTEMPTS:
        return ""
    return f"given up after {MAX_ATTEMPTS} attempts; the log says why. Last: {row.message}"


class Jobs:
    """Runs and rollouts. What a job changes together with itself (a model, a lease) is changed here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, name: str, kind: Kind, source: str, request: dict[str, Any]) -> RunRow:
        """A new model, and the queued run that imports it. Raises ``AlreadyExists``.

        A model whose import failed may be registered again.
        """
        with self._database.in_turn(_STARTS) as session:
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
            session.add(ModelRow(name=name, kind=kind.value, source=source, last_number=0, created_at=now()))
            run = _new_run(RunKind.IMPORT, name, request)
            session.add(run)
            return run

    def add_run(self, collection: str, model: str, current_digest: str, request: dict[str, Any]) -> RunRow:
        """A queued fine-tuning run.

        Raises ``FailedPrecondition`` while the collection has another, or a rollout that changes what serves.
        """
        with self._database.in_turn(_STARTS) as session:
            active = _unfinished(session, RunRow, collection, (RunState.QUEUED, RunState.RUNNING))
            if active:
                raise FailedPrecondition(
                    "RUN_ACTIVE", active, f"run {active} of {collection!r} is not finished; wait or cancel it"
                )
            changing = _unfinished(session, RolloutRow, collection, ROLLOUT_ACTIVE)
            if changing:
                said = f"rollout {changing} changes what serves {collection!r}; wait until it has, or abort it"
                raise FailedPrecondition("ROLLOUT_ACTIVE", changing, said)
            run = _new_run(RunKind.FINE_TUNE, model, request)
            run.collection, run.current_digest = collection, current_digest
            session.add(run)
            return run

    def add_rollout(self, collection: str, from_digest: str, to_digest: str, run_id: str = "") -> RolloutRow:
        """A rollout, with the lease that keeps its version resident. One run gets one rollout.

        Raises ``FailedPrecondition`` while the collection has another that has not switched and watched yet.
        """
        with self._database.in_turn(_STARTS) as session:
            if run_id and (known := _rollout_of(session, run_id)):
                return known
            active = _unfinished(session, RolloutRow, collection, ROLLOUT_ACTIVE)
            if active:
                raise FailedPrecondition(
                    "ROLLOUT_ACTIVE", active, f"rollout {active} of {collection!r} is not finished; wait or abort it"
                )
            rollout = RolloutRow(
                id=uuid.uuid4().hex,
                state=RolloutState.LOADING.value,
                lease_until=None,
                created_at=now(),
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
            _keep_rerankers(session, rollout)
            return rollout

    def rollout_of(self, run_id: str) -> RolloutRow | None:
        """The rollout that a run began, if it has."""
        with self._database.reading() as session:
            return _rollout_of(session, run_id)

    def retiring(self) -> list[RolloutRow]:
        """Rollouts that wait for the retention window to end."""
        with self._database.reading() as session:
            return list(session.scalars(sa.select(RolloutRow).where(RolloutRow.state == RolloutState.RETIRING.value)))

    def kept_beyond_the_end(self) -> list[str]:
        """Holders of leases for rerankers whose rollouts have ended."""
        with self._database.reading() as session:
            held = session.scalars(sa.select(LeaseRow.holder).where(LeaseRow.holder.startswith(_KEPT)).distinct())
            rollouts = (session.get_one(RolloutRow, holder.removeprefix(_KEPT)) for holder in held)
            ended = {state.value for state in ROLLOUT_ENDED}
            return [f"{_KEPT}{rollout.id}" for rollout in rollouts if rollout.state in ended]

    def release(self, holders: Sequence[str]) -> None:
        """End leases by who holds them."""
        if holders:
            with self._database.writing() as session:
                session.execute(sa.delete(LeaseRow).where(LeaseRow.holder.in_(holders)))

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
                free = sa.or_(kind.lease_until.is_(None), kind.lease_until < now())
                return list(session.scalars(sa.select(kind.id).where(kind.state.in_(states), free)))

            runs = idle(RunRow, [RunState.QUEUED.value, RunState.RUNNING.value])
            return runs, idle(RolloutRow, [state.value for state in ROLLOUT_ACTIVE])

    def unfinished_runs(self, ids: Sequence[str]) -> set[str]:
        """Of these runs those that have not ended."""
        unfinished = RunRow.state.in_([RunState.QUEUED.value, RunState.RUNNING.value])
        with self._database.reading() as session:
            return set(session.scalars(sa.select(RunRow.id).where(RunRow.id.in_(ids), unfinished)))

    def claim(self, kind: type[JobRow], job_id: str) -> JobRow | None:
        """Take a job that nobody works on, or None. One that is `worn_out` is taken to be ended."""
        active = (
            {RunState.QUEUED.value, RunState.RUNNING.value} if kind is RunRow else {s.value for s in ROLLOUT_ACTIVE}
        )
        with self._database.writing() as session:
            row = session.get(kind, job_id, with_for_update=True)
            if row is None or row.state not in active or (row.lease_until and aware(row.lease_until) > now()):
                return None
            row.attempts += 1
            row.fence += 1
            row.revision += 1
            row.lease_until = now() + timedelta(seconds=LEASE_SECONDS)
            row.started_at = row.started_at or now()
            if isinstance(row, RunRow):
                row.state = RunState.RUNNING.value
            return row

    def renew(self, row: JobRow) -> None:
        """Renew the lease on a job that is ours. Raises ``LostJob``."""
        with self._database.writing() as session:
            _owned(session, row).lease_until = now() + timedelta(seconds=LEASE_SECONDS)

    @contextmanager
    def held(self, row: JobRow) -> Iterator[None]:
        """Renew the lease from a thread while the block runs, however long one of its steps takes."""
        done = threading.Event()

        def keep() -> None:
            while not done.wait(LEASE_SECONDS / 5):
                try:
                    self.renew(row)
                except LostJob:
                    return  # the block will find out at its next write
                except sa.exc.SQLAlchemyError:
                    log.exception("a lease could not be renewed; trying again")

        keeper = threading.Thread(target=keep, name=f"lease {row.id}", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()

    def update(self, row: JobRow, **changes: Any) -> JobRow:
        """Write to a job that is ours and renew the lease. Raises ``LostJob``."""
        with self._database.writing() as session:
            fresh = _owned(session, row)
            for name, value in changes.items():
                setattr(fresh, name, value)
            fresh.lease_until = now() + timedelta(seconds=LEASE_SECONDS)
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
            return _end(session, _owned(session, row), state, message, changes)

    def end_retired(self, rollout_id: str) -> None:
        """End a rollout whose rollback window is over, its lease, and those as imports of what it has replaced.

        That are the old version and the model's own earlier ones.
        """
        with self._database.writing() as session:
            row = session.get_one(RolloutRow, rollout_id)
            if row.state == RolloutState.RETIRING.value:
                _end(session, row, RolloutState.DONE, "the old version is retired", {})
                new = session.get_one(VersionRow, row.to_digest)
                earlier = sa.select(VersionRow.digest).where(
                    VersionRow.model == new.model, VersionRow.number < new.number
                )
                replaced = sa.or_(LeaseRow.digest == row.from_digest, LeaseRow.digest.in_(earlier))
                session.execute(sa.delete(LeaseRow).where(LeaseRow.holder == "import", replaced))

    def roll_back(self, rollout_id: str, message: str) -> RolloutRow:
        """Note that a switched rollout was taken back, unless somebody has."""
        with self._database.writing() as session:
            row = session.get_one(RolloutRow, rollout_id)
            back = RolloutState.ROLLED_BACK
            return row if row.state == back.value else _end(session, row, back, message, {})

    def request_stop(self, kind: type[JobRow], job_id: str) -> JobRow:
        """Ask a job to stop. A run that nobody works on ends at once."""
        self.get(kind, job_id)
        with self._database.writing() as session:
            row = session.get_one(kind, job_id)
            row.stop_requested = True
            row.revision += 1
            if isinstance(row, RunRow) and row.state == RunState.QUEUED.value:
                _end(session, row, RunState.CANCELLED, "cancelled before it began", {})
            return row

    def note(self, kind: type[RunRow] | type[RolloutRow], job_id: str, message: str) -> None:
        """Say of a job that nobody works on why that is."""
        with self._database.writing() as session:
            row = session.get(kind, job_id)
            if isinstance(row, RunRow | RolloutRow) and row.message != message:
                row.message = message
                row.revision += 1


def _keep_rerankers(session: Session, rollout: RolloutRow) -> None:
    """Lease both rerankers of a rollout until it has ended, and search was asked after that what serves.

    An encoder is leased for its index, which outlives the switch. A reranker is leased for the route alone: without
    this, the old one would be let go at the switch, and after a rollback it would be needed again before the route is
    next looked at.
    """
    for digest in (rollout.from_digest, rollout.to_digest):
        version = session.get(VersionRow, digest) if digest else None
        if version is not None and version.kind == Kind.RERANKER.value:
            session.merge(LeaseRow(digest=digest, holder=f"{_KEPT}{rollout.id}"))


def _unfinished(
    session: Session,
    kind: type[RunRow] | type[RolloutRow],
    collection: str,
    states: Iterable[RunState | RolloutState],
) -> str | None:
    """The id of a collection's job in one of these states."""
    wanted = [state.value for state in states]
    return session.scalars(sa.select(kind.id).where(kind.collection == collection, kind.state.in_(wanted))).first()


def _rollout_of(session: Session, run_id: str) -> RolloutRow | None:
    return session.scalars(sa.select(RolloutRow).where(RolloutRow.run_id == run_id)).first()


def _new_run(kind: RunKind, model: str, request: dict[str, Any]) -> RunRow:
    return RunRow(
        id=uuid.uuid4().hex,
        state=RunState.QUEUED.value,
        lease_until=None,
        created_at=now(),
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


def _end(
    session: Session, row: JobRow, state: RunState | RolloutState, message: str, changes: Mapping[str, Any]
) -> JobRow:
    """End a job and, in the same transaction, the lease that it held for itself."""
    for name, value in changes.items():
        setattr(row, name, value)
    row.state, row.message, row.ended_at, row.lease_until = state.value, message, now(), None
    row.progress = 1.0
    row.revision += 1
    holder = f"run:{row.id}"
    if isinstance(row, RunRow):
        row.seconds_left = 0.0
    if isinstance(row, RolloutRow) and isinstance(state, RolloutState):
        row.history = [*row.history, _moment(state)]
        holder = f"rollout:{row.id}"
    session.execute(sa.delete(LeaseRow).where(LeaseRow.holder == holder))
    return row


def _moment(state: RolloutState) -> list[str]:
    """An entry of a rollout's history."""
    return [state.value, now().isoformat()]
