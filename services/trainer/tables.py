"""The trainer's tables."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


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
    seconds_left: Mapped[float] = mapped_column(default=0.0)
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


class DatasetRow(Base):
    """Data that somebody brought. ``path`` is the object with the rows, written before this row."""

    __tablename__ = "datasets"
    name: Mapped[str] = mapped_column(primary_key=True)
    form: Mapped[str]
    path: Mapped[str]
    digest: Mapped[str]
    rows: Mapped[int]
    queries: Mapped[int]
    rankable_queries: Mapped[int]
    classes: Mapped[int]
    documents: Mapped[int]
    remarks: Mapped[list[Any]]
    created_at: Mapped[datetime]


def now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)


def aware(moment: datetime) -> datetime:
    """A stored moment; SQLite gives back what was stored in UTC without saying so."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
