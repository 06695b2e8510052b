"""Events as exports, lists and summaries read them. Methods block: call them from a thread."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, islice
from typing import Any, TypeVar

import sqlalchemy as sa

from services.feedback.adapters.tables import (
    FeedbackRow,
    ImpressionRow,
    counts_of,
    event_of,
    normalized_key,
    utc,
)
from services.feedback.domain.crowds import Crowd, CrowdRules, crowd
from services.feedback.domain.judging import standing
from services.feedback.domain.model import MINUTE_MS, OPINIONS, Actor, Event, Impression, Signal
from services.feedback.domain.rules import DAY_MS
from services.kit.sql import Database

_IDS_AT_ONCE = 500
# Of a page of standing opinions: rows are looked through in so many portions at most.
_MOST_PORTIONS = 5

T = TypeVar("T")


@dataclass(frozen=True)
class Filters:
    """What is listed; a field that is None (or empty) does not matter. Times in milliseconds since 1970."""

    collection: str = ""
    actor: str = ""
    tenant: str | None = None
    query: str = ""
    document_id: str = ""
    signals: frozenset[Signal] = frozenset()
    search_id: str = ""
    since: int | None = None
    until: int | None = None


@dataclass(frozen=True)
class Stored:
    """An event with all that was said with it."""

    event: Event
    key: str
    collection: str
    client: str
    reason: str
    arrived: datetime


@dataclass(frozen=True)
class Summary:
    """Counts over one collection or all. ``days`` counts signals by day since 1970, UTC."""

    impressions: int = 0
    signals: dict[Signal, int] = field(default_factory=dict)
    queries: int = 0
    last: datetime | None = None
    actors: int = 0
    flagged: int = 0
    days: dict[int, dict[Signal, int]] = field(default_factory=dict)


class FeedbackReading:
    """What is read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Exports

    def newest(self) -> int:
        """The number of the newest event; 0 if there is none."""
        with self._database.connecting() as connection:
            return connection.scalar(sa.select(sa.func.max(FeedbackRow.number))) or 0

    def crowd(self, collection: str, up_to: int, rules: CrowdRules, signals: Collection[Signal]) -> Crowd:
        """Who floods or bursts in a collection with such signals, over the events up to a number."""
        with self._database.connecting() as connection:
            return _crowd(connection, collection, up_to, rules, signals)

    def by_query(self, collection: str, up_to: int, first: str, queries: int) -> list[tuple[str, list[Event]]]:
        """The events up to a number of so many queries, by the queries' keys from ``first`` on, in order."""
        within = FeedbackRow.collection == collection, FeedbackRow.number <= up_to
        wanted = sa.select(FeedbackRow.query_key).where(*within, FeedbackRow.query_key >= first).distinct()
        with self._database.connecting() as connection:
            keys = connection.scalars(wanted.order_by(FeedbackRow.query_key).limit(queries)).all()
            if not keys:
                return []
            rows = connection.execute(
                sa.select(FeedbackRow.__table__)
                .where(*within, FeedbackRow.query_key.between(keys[0], keys[-1]))
                .order_by(FeedbackRow.query_key, FeedbackRow.number)
            )
            return [(key, [event_of(row) for row in group]) for key, group in groupby(rows, lambda row: row.query_key)]

    def impressions(self, search_ids: set[str]) -> dict[str, Impression]:
        """What those searches showed that are known."""
        found = {}
        with self._database.connecting() as connection:
            for ids in _portions(sorted(search_ids), _IDS_AT_ONCE):
                columns = sa.select(ImpressionRow.search_id, ImpressionRow.shown)
                for search_id, shown in connection.execute(columns.where(ImpressionRow.search_id.in_(ids))):
                    found[search_id] = Impression({item["document_id"]: max(1, item["rank"]) for item in shown})
        return found

    # Lists

    def page(self, filters: Filters, before: int | None, size: int) -> tuple[list[Stored], int | None]:
        """Newest first, from before a number; with the number before which the next page begins, if there is one."""
        with self._database.connecting() as connection:
            rows = _rows(connection, filters, before, size + 1)
        return [_stored(row) for row in rows[:size]], rows[size - 1].number if len(rows) > size else None

    def standing_page(self, filters: Filters, before: int | None, size: int) -> tuple[list[Stored], int | None]:
        """The same of opinions that stand. A page may have fewer than ``size`` and yet not be the last."""
        found: list[Stored] = []
        with self._database.connecting() as connection:
            for _ in range(_MOST_PORTIONS):
                rows = _rows(connection, filters, before, size)
                numbers = _standing(connection, rows)
                for row in rows:
                    before = row.number
                    if row.number in numbers:
                        found.append(_stored(row))
                    if len(found) == size:
                        return found, before
                if len(rows) < size:
                    return found, None
        return found, before

    # Summaries

    def summary(self, collection: str, rules: CrowdRules, today: int, days: int) -> Summary:
        """Counts; an empty ``collection`` means all. By day for ``days`` days up to ``today``, a day since 1970."""
        of = [FeedbackRow.collection == collection] if collection else []
        shown = [ImpressionRow.collection == collection] if collection else []
        day = FeedbackRow.time // DAY_MS
        with self._database.connecting() as connection:
            last = connection.scalar(sa.select(sa.func.max(FeedbackRow.at)).where(*of))
            named = sa.select(FeedbackRow.tenant, FeedbackRow.actor).where(*of, FeedbackRow.actor != "").distinct()
            queries = sa.select(FeedbackRow.collection, FeedbackRow.query_key).where(*of).distinct()
            recent = FeedbackRow.time >= (today - days + 1) * DAY_MS
            by_day = sa.select(day, FeedbackRow.signal, sa.func.count()).where(*of, recent, day <= today)
            counted: dict[int, dict[Signal, int]] = {}
            for number, signal, count in connection.execute(by_day.group_by(day, FeedbackRow.signal)):
                counted.setdefault(int(number), {})[Signal(signal)] = count
            collections = (
                [collection] if collection else connection.scalars(sa.select(FeedbackRow.collection).distinct())
            )
            newest = connection.scalar(sa.select(sa.func.max(FeedbackRow.number))) or 0
            crowds = [_crowd(connection, each, newest, rules, Signal) for each in list(collections)]
            flagged = {actor for crowd in crowds for actor in crowd.actors}
            by_signal = sa.select(FeedbackRow.signal, sa.func.count()).where(*of).group_by(FeedbackRow.signal)
            return Summary(
                connection.scalar(sa.select(sa.func.count()).select_from(ImpressionRow).where(*shown)) or 0,
                counts_of(connection.execute(by_signal)),
                _count(connection, queries),
                utc(last) if last else None,
                _count(connection, named),
                len(flagged),
                counted,
            )


def _crowd(
    connection: sa.Connection, collection: str, up_to: int, rules: CrowdRules, signals: Iterable[Signal]
) -> Crowd:
    read = FeedbackRow.signal.in_([signal.value for signal in signals])
    within = FeedbackRow.collection == collection, FeedbackRow.number <= up_to, read
    opinions = FeedbackRow.signal.in_([signal.value for signal in OPINIONS])
    who = FeedbackRow.tenant, FeedbackRow.actor
    pairs = (
        sa.select(*who, FeedbackRow.query_key, FeedbackRow.document_id).where(*within, opinions).distinct().subquery()
    )
    said: dict[Actor, int] = {}
    for tenant, actor, count in connection.execute(
        sa.select(pairs.c.tenant, pairs.c.actor, sa.func.count()).group_by(pairs.c.tenant, pairs.c.actor)
    ):
        named = (tenant, actor) if actor else ("", "")
        said[named] = said.get(named, 0) + count
    minute = FeedbackRow.time // MINUTE_MS
    busy = connection.execute(
        sa.select(*who, minute, sa.func.count())
        .where(*within, FeedbackRow.actor != "")
        .group_by(*who, minute)
        .having(sa.func.count() > rules.burst_events)
    )
    return crowd(said, {((tenant, actor), int(number)): count for tenant, actor, number, count in busy}, rules)


def _rows(connection: sa.Connection, filters: Filters, before: int | None, most: int) -> "Sequence[sa.Row[Any]]":
    query = sa.select(FeedbackRow.__table__).order_by(FeedbackRow.number.desc()).limit(most)
    if before is not None:
        query = query.where(FeedbackRow.number < before)
    return connection.execute(query.where(*_conditions(filters))).all()


def _conditions(filters: Filters) -> Iterator[sa.ColumnElement[bool]]:
    exact: Mapping[Any, str] = {
        FeedbackRow.collection: filters.collection,
        FeedbackRow.actor: filters.actor,
        FeedbackRow.query_key: normalized_key(filters.query) if filters.query else "",
        FeedbackRow.document_id: filters.document_id,
        FeedbackRow.search_id: filters.search_id,
    }
    yield from (column == value for column, value in exact.items() if value)
    if filters.tenant is not None:
        yield FeedbackRow.tenant == filters.tenant
    if filters.signals:
        yield FeedbackRow.signal.in_([signal.value for signal in filters.signals])
    if filters.since is not None:
        yield FeedbackRow.time >= filters.since
    if filters.until is not None:
        yield FeedbackRow.time < filters.until


def _standing(connection: sa.Connection, rows: "Sequence[sa.Row[Any]]") -> set[int]:
    """The numbers of what stands among all that was said of these rows' queries and documents."""
    pair = sa.tuple_(FeedbackRow.collection, FeedbackRow.query_key, FeedbackRow.document_id)
    found: set[int] = set()
    pairs = sorted({(row.collection, row.query_key, row.document_id) for row in rows})
    for some in _portions(pairs, _IDS_AT_ONCE):
        said = connection.execute(sa.select(FeedbackRow.__table__).where(pair.in_(some))).all()
        for collection in {row.collection for row in said}:
            found.update(e.number for e in standing(event_of(row) for row in said if row.collection == collection))
    return found


def _stored(row: "sa.Row[Any]") -> Stored:
    return Stored(event_of(row), row.key, row.collection, row.client, row.reason, utc(row.at))


def _count(connection: sa.Connection, query: Any) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0


def _portions(items: Iterable[T], size: int) -> Iterator[list[T]]:
    waiting = iter(items)
    while portion := list(islice(waiting, size)):
        yield portion
