"""Who read what, what came of it, and how it is deleted. Methods block: call them from a thread."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.feedback.adapters.tables import (
    WRITERS,
    ErasureRow,
    ExportRow,
    FeedbackRow,
    ImpressionRow,
    TrainingRow,
    counts_of,
)
from services.feedback.domain.model import Signal
from services.kit.errors import NotFound
from services.kit.sql import Database


@dataclass(frozen=True)
class Version:
    """A version of a model, by its names and its digest."""

    model: str
    number: int
    digest: str


@dataclass(frozen=True)
class Erasure:
    """What was deleted, and which versions came out of what each consumer had read of it."""

    signals: Mapping[Signal, int]
    impressions: int
    consumers: Mapping[str, list[Version]]


class Records:
    """Exports, trainings, erasures, and what grows too old."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_export(self, consumer: str, collection: str, up_to: int, policy: dict[str, Any]) -> None:
        """Note that a consumer reads a collection up to a number; once, however often it is said."""
        with self._database.in_turn(WRITERS) as session:
            if session.get(ExportRow, (consumer, collection, up_to)) is None:
                now = datetime.now(UTC)
                session.add(ExportRow(consumer=consumer, collection=collection, up_to=up_to, policy=policy, at=now))

    def add_training(self, consumer: str, version: Version) -> None:
        """Note that a version came out of what a consumer read. Raises ``NotFound``."""
        with self._database.in_turn(WRITERS) as session:
            if session.scalar(sa.select(ExportRow.up_to).where(ExportRow.consumer == consumer).limit(1)) is None:
                raise NotFound("consumer", consumer, "give the name under which it exported judgments")
            if session.get(TrainingRow, (consumer, version.digest)) is None:
                session.add(TrainingRow(consumer=consumer, at=datetime.now(UTC), **vars(version)))

    def erase(self, actor: str, tenant: str | None, key: str) -> Erasure:
        """Delete an actor's events and impressions, and events without an actor that hang on the latter.

        All in one transaction. What remains is counts, without the name. Calls with the same ``key`` add up.
        """
        searches = _of(ImpressionRow, actor, tenant)
        nameless = sa.and_(
            FeedbackRow.actor == "",
            FeedbackRow.search_id.in_(sa.select(ImpressionRow.search_id).where(*searches)),
            *([] if tenant is None else [FeedbackRow.tenant.in_({tenant, ""})]),
        )
        theirs = sa.or_(sa.and_(*_of(FeedbackRow, actor, tenant)), nameless)
        with self._database.in_turn(WRITERS) as session:
            if session.get_bind().dialect.name == "sqlite":
                # Else the bytes would stay in the file until something is written over them.
                session.connection().exec_driver_sql("PRAGMA secure_delete=ON")
            by_signal = sa.select(FeedbackRow.signal, sa.func.count()).where(theirs).group_by(FeedbackRow.signal)
            signals = counts_of(session.execute(by_signal).all())
            consumers = _readers(session, theirs)
            session.execute(sa.delete(FeedbackRow).where(theirs))
            deleted: Any = session.execute(sa.delete(ImpressionRow).where(*searches))
            row = session.get(ErasureRow, key) if key else None
            if row is None:
                row = ErasureRow(key=key or uuid4().hex, signals={}, impressions=0, consumers=[], at=datetime.now(UTC))
                if key or signals or deleted.rowcount:
                    session.add(row)
            row.signals = {s.value: row.signals.get(s.value, 0) + signals.get(s, 0) for s in Signal}
            row.impressions += deleted.rowcount
            row.consumers = sorted({*row.consumers, *consumers})
            erasure = Erasure(
                {Signal(name): count for name, count in row.signals.items() if count},
                row.impressions,
                {name: _versions(session, name) for name in row.consumers},
            )
        self._forget_log()
        return erasure

    def expire_feedback(self, before: int, most: int) -> int:
        """Delete events of before a time (milliseconds since 1970), at most so many; returns how many."""
        old = sa.select(FeedbackRow.number).where(FeedbackRow.time < before).limit(most)
        return self._delete(sa.delete(FeedbackRow).where(FeedbackRow.number.in_(old)))

    def expire_impressions(self, before: int, most: int) -> int:
        """The same for impressions."""
        moment = datetime.fromtimestamp(before / 1000, UTC)
        old = sa.select(ImpressionRow.search_id).where(ImpressionRow.at < moment).limit(most)
        return self._delete(sa.delete(ImpressionRow).where(ImpressionRow.search_id.in_(old)))

    def _delete(self, statement: sa.Delete) -> int:
        with self._database.in_turn(WRITERS) as session:
            done: Any = session.execute(statement)
            return int(done.rowcount)

    def _forget_log(self) -> None:
        """Empty SQLite's log of changes, where what was deleted still stands; unless someone reads it now."""
        if self._database.engine.dialect.name == "sqlite":
            connection = self._database.engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.close()


def _of(table: type[FeedbackRow | ImpressionRow], actor: str, tenant: str | None) -> list[sa.ColumnElement[bool]]:
    """An actor's rows. An impression without a tenant may be of any."""
    mine: list[sa.ColumnElement[bool]] = [table.actor == actor]
    if tenant is not None:
        mine.append(table.tenant.in_({tenant, ""} if table is ImpressionRow else {tenant}))
    return mine


def _readers(session: Session, theirs: sa.ColumnElement[bool]) -> set[str]:
    """Consumers that read up to one of these events, or beyond."""
    first = sa.select(FeedbackRow.collection, sa.func.min(FeedbackRow.number).label("number")).where(theirs)
    firsts = first.group_by(FeedbackRow.collection).subquery()
    read = sa.and_(ExportRow.collection == firsts.c.collection, ExportRow.up_to >= firsts.c.number)
    return set(session.scalars(sa.select(ExportRow.consumer).join(firsts, read).distinct()))


def _versions(session: Session, consumer: str) -> list[Version]:
    rows = session.scalars(sa.select(TrainingRow).where(TrainingRow.consumer == consumer))
    found = [Version(row.model, row.number, row.digest) for row in rows]
    return sorted(found, key=lambda version: (version.model, version.number))
