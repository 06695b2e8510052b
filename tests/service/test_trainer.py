"""Jobs, leases, artifacts and rollouts on a real database; only the other services are scripted."""

import datetime
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from obstore.store import from_url

from diapason import artifacts as contract
from diapason.artifact.v1.manifest_pb2 import Lineage, Manifest
from diapason.common.v1.version_pb2 import MODEL_KIND_ENCODER, MODEL_KIND_RERANKER, VersionRef
from diapason.embedder.v1.embedder_pb2 import VERSION_STATE_FAILED, VERSION_STATE_LOADING, VERSION_STATE_READY
from diapason.search.v1 import collection_pb2 as search
from diapason.trainer.v1 import registry_pb2
from diapason.trainer.v1.rollout_pb2 import StartRolloutRequest
from services.kit.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NotFound
from services.kit.sql import Database
from services.trainer import artifacts
from services.trainer.__main__ import MIGRATIONS
from services.trainer.domain.model import Kind, PublishedVersion, RolloutState, RunState
from services.trainer.jobs import MAX_ATTEMPTS, Jobs, LostJob, worn_out
from services.trainer.pacing import Shutdown
from services.trainer.process.spec import Spec
from services.trainer.registry import Registry
from services.trainer.rollouts import Roller
from services.trainer.runs import Runner
from services.trainer.servicers import RegistryServicer, RolloutServicer
from services.trainer.tables import LeaseRow, RolloutRow, RunRow
from tests.conftest import Relative, Tiny
from tests.support.embedding import publish


def version(number: int) -> PublishedVersion:
    digest = str(number) * 64
    return PublishedVersion("tiny", number, digest, Kind.ENCODER, f"models/tiny/{number}", 32, (32, 16), "", "")


OLD, NEW = version(1), version(2)


@dataclass(frozen=True)
class Store:
    """The trainer's two stores over one database."""

    database: Database
    jobs: Jobs
    registry: Registry


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    database = Database(f"sqlite:///{tmp_path / 'trainer.db'}")
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


def test_i7_a_job_is_claimed_once_however_often_it_is_nudged(store: Store) -> None:
    row = run_of(store)
    assert store.jobs.claim(RunRow, row.id) is not None
    assert store.jobs.claim(RunRow, row.id) is None


def test_i7_a_worker_that_lost_its_job_can_write_nothing(store: Store) -> None:
    first = store.jobs.claim(RunRow, run_of(store).id)
    assert first is not None
    age(store, first)
    second = store.jobs.claim(RunRow, first.id)
    assert second is not None
    with pytest.raises(LostJob):
        store.jobs.update(first, message="from the past")
    with pytest.raises(LostJob):
        store.jobs.end(first, RunState.SUCCEEDED, "from the past")
    store.jobs.end(second, RunState.SUCCEEDED, "done")
    assert store.jobs.get(RunRow, first.id).message == "done"


def test_i7_an_ended_job_is_not_taken_up_again(store: Store) -> None:
    row = store.jobs.claim(RunRow, run_of(store).id)
    assert row is not None
    store.jobs.end(row, RunState.SUCCEEDED, "done")
    assert store.jobs.claim(RunRow, row.id) is None
    with pytest.raises(LostJob):
        store.jobs.update(row, message="again")


def test_i7_a_job_that_kills_its_workers_is_given_up(store: Store) -> None:
    row = run_of(store)
    for _ in range(MAX_ATTEMPTS):
        claimed = store.jobs.claim(RunRow, row.id)
        assert claimed is not None
        assert not worn_out(claimed)
        age(store, claimed)
    last = store.jobs.claim(RunRow, row.id)
    assert last is not None
    assert f"after {MAX_ATTEMPTS} attempts" in worn_out(last)


def test_a_job_given_back_costs_no_attempt_and_waits_again(store: Store) -> None:
    row = run_of(store)
    for _ in range(MAX_ATTEMPTS + 2):
        claimed = store.jobs.claim(RunRow, row.id)
        assert claimed is not None
        store.jobs.let_go(claimed)
    assert row.id in store.jobs.waiting()[0]


def test_i7_a_lease_is_renewed_while_a_step_takes_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.trainer.jobs.LEASE_SECONDS", 0.5)
    row = store.jobs.claim(RunRow, run_of(store).id)
    assert row is not None
    with store.jobs.held(row):
        for _ in range(20):
            assert store.jobs.claim(RunRow, row.id) is None
            time.sleep(0.1)


def test_a_collection_has_one_unfinished_run_and_one_unfinished_rollout(store: Store) -> None:
    run = run_of(store)
    with pytest.raises(FailedPrecondition, match=run.id):
        run_of(store)
    rollout = store.jobs.add_rollout("films", OLD.digest, NEW.digest)
    with pytest.raises(FailedPrecondition, match=rollout.id):
        store.jobs.add_rollout("films", OLD.digest, NEW.digest, "run")


def test_i4_a_rollout_that_wore_out_its_workers_ends_and_lets_go(store: Store) -> None:
    row = store.jobs.add_rollout("films", OLD.digest, NEW.digest)
    for _ in range(MAX_ATTEMPTS):
        claimed = store.jobs.claim(RolloutRow, row.id)
        assert claimed is not None
        with store.database.writing() as session:
            session.get_one(RolloutRow, row.id).lease_until = None
    peers = ScriptedSearch()
    Roller(store.jobs, store.registry, peers, Shutdown(), 0.0, 5.0).execute(row.id)  # type: ignore[arg-type]
    assert store.jobs.get(RolloutRow, row.id).state == RolloutState.FAILED.value
    assert leases(store) == {(OLD.digest, "import")}
    assert peers.generation == 1


def test_a_queued_run_is_cancelled_at_once(store: Store) -> None:
    row = run_of(store)
    store.jobs.request_stop(RunRow, row.id)
    assert store.jobs.get(RunRow, row.id).state == RunState.CANCELLED.value
    with pytest.raises(NotFound):
        store.jobs.request_stop(RunRow, "none")


def test_a_model_is_registered_once_but_again_after_a_failed_import(store: Store) -> None:
    with pytest.raises(AlreadyExists):
        store.jobs.register("tiny", Kind.ENCODER, "x", {})
    first = store.jobs.register("other", Kind.ENCODER, "x", {})
    with pytest.raises(AlreadyExists):
        store.jobs.register("other", Kind.ENCODER, "x", {})
    claimed = store.jobs.claim(RunRow, first.id)
    assert claimed is not None
    store.jobs.end(claimed, RunState.FAILED, "no such folder")
    store.jobs.register("other", Kind.ENCODER, "y", {})


def test_desired_is_what_is_leased(store: Store) -> None:
    assert [v.number for v in store.registry.desired()] == [1]
    store.registry.sync_index_leases({"index:films-2": NEW.digest, "index:elsewhere": "f" * 64})
    assert [v.number for v in store.registry.desired()] == [1, 2]
    store.registry.sync_index_leases({})
    assert [v.number for v in store.registry.desired()] == [1]


def test_version_numbers_are_given_out_once(store: Store) -> None:
    assert [store.registry.next_number("tiny") for _ in range(3)] == [1, 2, 3]


class ScriptedSearch:
    """Search as a rollout sees it: one collection, one route; what it is told to fail at, it fails at."""

    def __init__(self) -> None:
        self.digest, self.generation = OLD.digest, 1
        self.fail_at = ""
        self.error: Exception = FailedPrecondition("RULE", "x", "it can't be done")
        self.cancelled: list[str] = []
        self.conflicts = 0

    def collection(self, name: str) -> search.Collection:
        route = search.Route(collection=name, generation=self.generation, encoder=VersionRef(digest=self.digest))
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

    def roll_back(self, collection: str, generation: int) -> search.Route:
        self.digest, self.generation = OLD.digest, generation + 1
        return self.collection(collection).route

    def _maybe_fail(self, step: str) -> None:
        if self.fail_at == step:
            raise self.error


def roll_out(store: Store, peers: ScriptedSearch, watch: float = 0.0, load_timeout: float = 5.0) -> RolloutRow:
    row = store.jobs.add_rollout("films", OLD.digest, NEW.digest)
    roller = Roller(store.jobs, store.registry, peers, Shutdown(), watch, load_timeout)  # type: ignore[arg-type]
    roller.execute(row.id)
    return store.jobs.get(RolloutRow, row.id)


def leases(store: Store) -> set[tuple[str, str]]:
    with store.database.reading() as session:
        return {(row.digest, row.holder.split(":")[0]) for row in session.scalars(sa.select(LeaseRow))}


def test_a_rollout_goes_through_its_states_and_keeps_its_lease(store: Store) -> None:
    store.registry.report("replica", {NEW.digest: (VERSION_STATE_READY, "")})
    peers = ScriptedSearch()
    row = roll_out(store, peers)
    assert [state for state, _ in row.history] == ["loading", "reindexing", "switching", "watching", "retiring"]
    assert (peers.digest, peers.generation) == (NEW.digest, 2)
    assert (NEW.digest, "rollout") in leases(store)
    store.jobs.end_retired(row.id)
    assert store.jobs.get(RolloutRow, row.id).state == RolloutState.DONE.value
    assert leases(store) == set()


@pytest.mark.parametrize("step", ["reindex", "build", "switch"])
def test_i6_a_rollout_that_fails_at_a_step_leaves_what_served(store: Store, step: str) -> None:
    store.registry.report("replica", {NEW.digest: (VERSION_STATE_READY, "")})
    peers = ScriptedSearch()
    peers.fail_at = step
    row = roll_out(store, peers)
    assert row.state == RolloutState.FAILED.value
    assert row.message
    assert (peers.digest, peers.generation) == (OLD.digest, 1)
    assert leases(store) == {(OLD.digest, "import")}
    assert peers.cancelled == ([] if step == "reindex" else ["r"])


def test_i6_a_version_that_a_replica_refuses_is_not_rolled_out(store: Store) -> None:
    store.registry.report("good", {NEW.digest: (VERSION_STATE_READY, "")})
    store.registry.report("bad", {NEW.digest: (VERSION_STATE_FAILED, "tokenizer.json was changed")})
    row = roll_out(store, ScriptedSearch())
    assert row.state == RolloutState.FAILED.value
    assert "tokenizer.json was changed" in row.message


def test_i4_a_rollout_waits_for_every_live_replica(store: Store) -> None:
    store.registry.report("ready", {NEW.digest: (VERSION_STATE_READY, "")})
    store.registry.report("slow", {NEW.digest: (VERSION_STATE_LOADING, "")})
    row = roll_out(store, ScriptedSearch(), load_timeout=0.0)
    assert row.state == RolloutState.FAILED.value
    assert "1 of 2" in row.message


def test_a_switch_lost_to_another_is_looked_at_again(store: Store) -> None:
    store.registry.report("replica", {NEW.digest: (VERSION_STATE_READY, "")})
    peers = ScriptedSearch()
    peers.conflicts = 2
    assert roll_out(store, peers).state == RolloutState.RETIRING.value


def test_i6_a_route_that_went_elsewhere_is_left_alone(store: Store) -> None:
    store.registry.report("replica", {NEW.digest: (VERSION_STATE_READY, "")})
    peers = ScriptedSearch()
    peers.digest, peers.generation = "e" * 64, 5
    row = roll_out(store, peers)
    assert row.state == RolloutState.FAILED.value
    assert (peers.digest, peers.generation) == ("e" * 64, 5)


def test_i7_a_rollout_taken_up_after_the_switch_does_not_switch_again(store: Store) -> None:
    store.registry.report("replica", {NEW.digest: (VERSION_STATE_READY, "")})
    peers = ScriptedSearch()
    row = store.jobs.add_rollout("films", OLD.digest, NEW.digest)
    claimed = store.jobs.claim(RolloutRow, row.id)
    assert claimed is not None
    store.jobs.let_go(store.jobs.update(claimed, state=RolloutState.SWITCHING.value, index_id="films-2"))
    peers.digest, peers.generation = NEW.digest, 2  # the switch was made, but not noted
    Roller(store.jobs, store.registry, peers, Shutdown(), 0.0, 5.0).execute(row.id)  # type: ignore[arg-type]
    assert (store.jobs.get(RolloutRow, row.id).state, peers.generation) == (RolloutState.RETIRING.value, 2)


def test_a_version_lost_while_it_is_watched_is_rolled_back(store: Store) -> None:
    store.registry.report("replica", {NEW.digest: (VERSION_STATE_READY, "")})

    class Losing(ScriptedSearch):
        def switch(self, collection: str, index: str, generation: int) -> search.Route:
            store.registry.report("replica", {NEW.digest: (VERSION_STATE_FAILED, "gone")})
            return super().switch(collection, index, generation)

    peers = Losing()
    row = roll_out(store, peers, watch=5.0)
    assert row.state == RolloutState.ROLLED_BACK.value
    assert leases(store) == {(OLD.digest, "import")}
    assert (peers.digest, peers.generation) == (OLD.digest, 3)


def test_an_aborted_rollout_ends_before_the_switch(store: Store) -> None:
    row = store.jobs.add_rollout("films", OLD.digest, NEW.digest)
    store.jobs.request_stop(RolloutRow, row.id)
    peers = ScriptedSearch()
    Roller(store.jobs, store.registry, peers, Shutdown(), 0.0, 5.0).execute(row.id)  # type: ignore[arg-type]
    assert store.jobs.get(RolloutRow, row.id).state == RolloutState.ABORTED.value
    assert peers.generation == 1


def test_one_run_gets_one_rollout(store: Store) -> None:
    first = store.jobs.add_rollout("films", OLD.digest, NEW.digest, "run")
    assert store.jobs.add_rollout("films", OLD.digest, NEW.digest, "run").id == first.id


def test_i3_publishing_again_changes_nothing(tiny: Tiny, other_tiny: Tiny, tmp_path: Path) -> None:
    first = publish(tmp_path / "store", tiny.candidate, 1)
    objects = from_url((tmp_path / "store").as_uri())
    lineage = Lineage(source="test", run_id="run-1")
    again = artifacts.publish(objects, other_tiny.candidate, model="tiny", number=9, lineage=lineage)
    assert again == first


def test_i3_the_manifest_is_written_last(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    objects = from_url((tmp_path / "store").as_uri())
    candidate = tmp_path / "candidate"
    candidate.mkdir()
    for source in tiny.candidate.iterdir():
        (candidate / source.name).symlink_to(source)
    order: list[str] = []

    class Recording:
        def get(self, path: str) -> object:
            return objects.get(path)

        def put(self, path: str, content: object) -> None:
            order.append(path)
            objects.put(path, content)  # type: ignore[arg-type]

    lineage = Lineage(source="test", run_id="run-1")
    artifacts.publish(Recording(), candidate, model="tiny", number=1, lineage=lineage)  # type: ignore[arg-type]
    assert order[-1].endswith(contract.MANIFEST_NAME)
    assert len([path for path in order if path.endswith(contract.MANIFEST_NAME)]) == 1


def test_i3_tampered_weights_are_not_trained_on(tiny: Tiny, tmp_path: Path) -> None:
    published = publish(tmp_path / "store", tiny.candidate, 1)
    objects = from_url((tmp_path / "store").as_uri())
    assert (artifacts.fetch_weights(objects, published, tmp_path / "good") / "model.safetensors").exists()
    (tmp_path / "store" / published.path / "weights" / "config.json").write_text(json.dumps({}))
    with pytest.raises(artifacts.BrokenArtifact, match=r"config\.json"):
        artifacts.fetch_weights(objects, published, tmp_path / "bad")
    assert not (tmp_path / "bad" / published.digest).exists()


def test_i3_no_pickles_are_published(tiny: Tiny, tmp_path: Path) -> None:
    published = publish(tmp_path / "store", tiny.candidate, 1)
    manifest = contract.decode((tmp_path / "store" / published.path / contract.MANIFEST_NAME).read_bytes())
    endings = {Path(file.path).suffix for file in manifest.files}
    assert endings <= {".json", ".xml", ".bin", ".safetensors", ".txt"}
    assert [f.path for f in manifest.files if f.path.endswith(".bin")] == ["openvino/model.bin"]


def manifest_of(store_folder: Path, published: PublishedVersion) -> Manifest:
    return contract.decode((store_folder / published.path / contract.MANIFEST_NAME).read_bytes())


def test_the_manifest_says_whether_vectors_are_left_as_they_come(family: dict[str, Relative], tmp_path: Path) -> None:
    raw = publish(tmp_path, family["bert-mean-raw"].candidate, 1)
    assert (raw.kind, manifest_of(tmp_path, raw).raw) == (Kind.ENCODER, True)
    scaled = publish(tmp_path, family["bert-mean"].candidate, 2)
    assert (scaled.kind, manifest_of(tmp_path, scaled).raw) == (Kind.ENCODER, False)


def test_a_reranker_is_published_as_one(family: dict[str, Relative], tmp_path: Path) -> None:
    published = publish(tmp_path, family["bert-reranker"].candidate, 1)
    assert (published.kind, published.dimension, published.dimensions) == (Kind.RERANKER, 0, ())
    manifest = manifest_of(tmp_path, published)
    assert manifest.kind == MODEL_KIND_RERANKER
    assert len(manifest.golden.queries) == len(manifest.golden.texts) == len(manifest.golden.vectors) / 4 == 5


@pytest.mark.parametrize(
    ("request_of", "name"),
    [({"kind": "reranker"}, "bert-reranker"), ({"kind": "encoder"}, "bert-mean"), ({}, "bert-mean")],
)
def test_an_import_brings_the_kind_that_was_asked_for(
    store: Store, family: dict[str, Relative], tmp_path: Path, request_of: dict[str, Any], name: str
) -> None:
    class Prepared(Runner):
        """Has the job's work done beforehand."""

        def _job(self, run: RunRow, folder: Path) -> None:
            specs.append(Spec.read(folder))
            shutil.copytree(family[name].candidate, folder / "candidate")

    specs: list[Spec] = []
    (tmp_path / "objects").mkdir()
    objects = from_url((tmp_path / "objects").as_uri())
    kind = Kind(request_of.get("kind", "encoder"))
    run = store.jobs.register("new", kind, "somewhere", {"source": "somewhere", "dimensions": [], **request_of})
    Prepared(store.jobs, store.registry, objects, None, tmp_path, Shutdown()).execute(run.id)  # type: ignore[arg-type]
    assert [spec.model_kind for spec in specs] == [kind.value]
    assert store.registry.version(model="new", number=1).kind is kind


class Deaf:
    """A broker that does not answer."""

    def nudge(self, task: str, job_id: str) -> bool:
        return False


async def test_a_reranker_is_registered_and_listed_as_one(store: Store) -> None:
    servicer = RegistryServicer(store.jobs, store.registry, Deaf())  # type: ignore[arg-type]
    asked = registry_pb2.RegisterModelRequest(name="judge", kind=MODEL_KIND_RERANKER, source="somewhere")
    answer = await servicer.RegisterModel(asked, None)  # type: ignore[arg-type]
    request = store.jobs.get(RunRow, answer.run_id).request
    assert request == {"source": "somewhere", "kind": "reranker", "dimensions": []}
    listed = await servicer.ListModels(registry_pb2.ListModelsRequest(), None)  # type: ignore[arg-type]
    kinds = {model.name: model.kind for model in listed.models}
    assert kinds == {"tiny": MODEL_KIND_ENCODER, "judge": MODEL_KIND_RERANKER}


@pytest.mark.parametrize(
    ("kind", "field"), [(MODEL_KIND_RERANKER, "dimensions"), (0, "kind"), (9, "kind")], ids=["sizes", "none", "unknown"]
)
async def test_a_model_of_no_kind_or_a_reranker_with_sizes_is_refused(store: Store, kind: Any, field: str) -> None:
    servicer = RegistryServicer(store.jobs, store.registry, Deaf())  # type: ignore[arg-type]
    asked = registry_pb2.RegisterModelRequest(name="judge", kind=kind, source="somewhere", dimensions=[16])
    with pytest.raises(InvalidArgument) as refusal:
        await servicer.RegisterModel(asked, None)  # type: ignore[arg-type]
    assert [violation.field for violation in refusal.value.violations] == [field]


async def test_a_reranker_does_not_become_a_collections_encoder(store: Store) -> None:
    reranker = replace(NEW, digest="9" * 64, number=9, kind=Kind.RERANKER, dimension=0, dimensions=())
    store.registry.publish(reranker, "import")
    versions = await RegistryServicer(store.jobs, store.registry, Deaf()).ListVersions(  # type: ignore[arg-type]
        registry_pb2.ListVersionsRequest(model="tiny"),
        None,  # type: ignore[arg-type]
    )
    assert versions.versions[0].kind == MODEL_KIND_RERANKER
    servicer = RolloutServicer(store.jobs, store.registry, Deaf(), ScriptedSearch())  # type: ignore[arg-type]
    asked = StartRolloutRequest(collection="films", version=VersionRef(digest=reranker.digest))
    with pytest.raises(FailedPrecondition, match="is a reranker"):
        await servicer.StartRollout(asked, None)  # type: ignore[arg-type]
    assert leases(store) == {(OLD.digest, "import"), (reranker.digest, "import")}
