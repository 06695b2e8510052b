"""The trainer's stores over a real database, with two versions of one model."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1.embedder_pb2 import VERSION_STATE_READY
from diapason.search.v1 import collection_pb2 as search
from services.kit.errors import Conflict, FailedPrecondition
from services.kit.sql import Database
from services.trainer.__main__ import MIGRATIONS
from services.trainer.domain.model import Kind, PublishedVersion
from services.trainer.jobs import Jobs
from services.trainer.pacing import Shutdown
from services.trainer.registry import Registry
from services.trainer.rollouts import Roller
from services.trainer.tables import LeaseRow, RolloutRow, RunRow


def version(number: int) -> PublishedVersion:
    digest = str(number) * 64
    return PublishedVersion("tiny", number, digest, Kind.ENCODER, f"models/tiny/{number}", 32, (32, 16), "", "")


OLD, NEW = version(1), version(2)


def judge(number: int) -> PublishedVersion:
    """A version of the reranker "judge"."""
    return PublishedVersion("judge", number, f"{number:x}" * 32, Kind.RERANKER, f"models/judge/{number}", 0, (), "", "")


OLD_JUDGE, NEW_JUDGE = judge(0xA1), judge(0xA2)


@dataclass(frozen=True)
class Store:
    """The trainer's two stores over one database."""

    database: Database
    jobs: Jobs
    registry: Registry


def opened(url: str) -> Iterator[Store]:
    """Two stores over a fresh database, closed afterwards."""
    database = Database(url)
    database.migrate(MIGRATIONS)
    made = Store(database, Jobs(database), Registry(database))
    made.jobs.register("tiny", Kind.ENCODER, "somewhere", {"source": "somewhere", "dimensions": []})
    made.registry.publish(OLD, "import")
    made.registry.publish(NEW, "")
    yield made
    database.close()


def run_of(store: Store) -> RunRow:
    return store.jobs.add_run("films", "tiny", OLD.digest, {})


def age(store: Store, row: RunRow) -> None:
    """Let a lease run out, as if the worker had been killed long ago."""
    with store.database.writing() as session:
        session.get_one(RunRow, row.id).lease_until = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


class ScriptedSearch:
    """Search as a rollout sees it: one collection, one route; what it is told to fail at, it fails at."""

    def __init__(self) -> None:
        self.digest, self.generation = OLD.digest, 1
        self.reranker, self.reranker_before = "", ""
        self.fail_at = ""
        self.error: Exception = FailedPrecondition("RULE", "x", "it can't be done")
        self.cancelled: list[str] = []
        self.conflicts = 0

    def collection(self, name: str) -> search.Collection:
        route = search.Route(collection=name, generation=self.generation, encoder=VersionRef(digest=self.digest))
        if self.reranker:
            route.reranker.digest = self.reranker
        return search.Collection(name=name, route=route)

    def start_reindex(self, collection: str, version: PublishedVersion) -> search.Reindex:
        self._maybe_fail("reindex")
        return search.Reindex(id="r", index="films-2", state=search.REINDEX_STATE_RUNNING, total=2, done=1)

    def reindex(self, reindex_id: str) -> search.Reindex:
        state = search.REINDEX_STATE_CANCELLED if self.fail_at == "build" else search.REINDEX_STATE_CAUGHT_UP
        return search.Reindex(id="r", index="films-2", state=state, total=2, done=2)

    def cancel_reindex(self, reindex_id: str) -> None:
        self.cancelled.append(reindex_id)

    def switch(self, collection: str, index: str, generation: int) -> search.Route:
        self._maybe_fail("switch")
        if self.conflicts:
            self.conflicts -= 1
            raise Conflict("changed")
        self.digest, self.generation = NEW.digest, generation + 1
        return self.collection(collection).route

    def switch_reranker(self, collection: str, version: PublishedVersion, generation: int) -> search.Route:
        self._maybe_fail("switch")
        self.reranker_before, self.reranker, self.generation = self.reranker, version.digest, generation + 1
        return self.collection(collection).route

    def roll_back(self, collection: str, generation: int) -> search.Route:
        self.digest, self.generation = OLD.digest, generation + 1
        self.reranker = self.reranker_before
        return self.collection(collection).route

    def _maybe_fail(self, step: str) -> None:
        if self.fail_at == step:
            raise self.error


def with_judges(store: Store) -> None:
    """Two versions of a reranker besides; a replica has the newer one."""
    store.jobs.register("judge", Kind.RERANKER, "somewhere", {"source": "somewhere", "kind": "reranker"})
    store.registry.publish(OLD_JUDGE, "import")
    store.registry.publish(NEW_JUDGE, "")
    store.registry.report("replica", {NEW_JUDGE.digest: (VERSION_STATE_READY, "")})


def roll_out(
    store: Store,
    peers: ScriptedSearch,
    watch: float = 0.0,
    load_timeout: float = 5.0,
    of: tuple[str, str] = (OLD.digest, NEW.digest),
) -> RolloutRow:
    row = store.jobs.add_rollout("films", *of)
    roller = Roller(store.jobs, store.registry, peers, Shutdown(), watch, load_timeout)  # type: ignore[arg-type]
    roller.execute(row.id)
    return store.jobs.get(RolloutRow, row.id)


def leases(store: Store) -> set[tuple[str, str]]:
    with store.database.reading() as session:
        return {(row.digest, row.holder.split(":")[0]) for row in session.scalars(sa.select(LeaseRow))}
