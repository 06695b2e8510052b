"""Runs of rerankers: asked for over real gRPC and by the command, and driven to publication by a real runner."""

import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from obstore.store import ObjectStore, from_url

from diapason.artifact.v1.manifest_pb2 import Lineage
from diapason.client import Addresses, Client
from diapason.common.v1.version_pb2 import MODEL_KIND_ENCODER, MODEL_KIND_RERANKER
from diapason.errors import FailedPrecondition, InvalidArgument, NotFound
from diapason.search.v1 import collection_pb2 as search
from diapason.trainer.v1 import registry_pb2_grpc, training_pb2_grpc
from diapason.trainer.v1.training_pb2 import TrainingConfig
from services.kit.errors import NotFound as NotFoundHere
from services.kit.errors import Unavailable
from services.kit.server import Host
from services.kit.settings import ServiceSettings
from services.trainer import artifacts
from services.trainer.__main__ import REGISTRY, TRAINING
from services.trainer.domain.data import Judgment
from services.trainer.domain.model import Kind, PublishedVersion, RunState
from services.trainer.pacing import Shutdown
from services.trainer.peers import Exported
from services.trainer.process import spec as files
from services.trainer.process.spec import Spec
from services.trainer.registry import Registry
from services.trainer.runs import Runner
from services.trainer.servicers.registry import RegistryServicer
from services.trainer.servicers.training import TrainingServicer
from services.trainer.tables import RolloutRow, RunRow
from tests.conftest import Tiny
from tests.support import liking
from tests.support.jobs import NEW, OLD, OLD_JUDGE, ScriptedSearch, Store, with_judges
from tests.support.serving import in_thread
from tests.support.terminal import Command
from tests.support.words import TOPICS


class Peers(ScriptedSearch):
    """Search and feedback, with what people said."""

    def __init__(self) -> None:
        super().__init__()
        self.said = liking.judgments(40)
        self.told: list[PublishedVersion] = []

    def judgments(self, collection: str, consumer: str = "", policy: str = "") -> Exported:
        return Exported(self.said, {"name": "thumbs"})

    def passages(self, collection: str) -> Iterator[tuple[str, str]]:
        yield from ((f"t{topic}", liking.document(topic)) for topic in range(TOPICS))

    def record_training(self, consumer: str, version: PublishedVersion) -> None:
        self.told.append(version)


class Deaf:
    """A broker that takes everything and does nothing."""

    def nudge(self, task: str, job_id: str) -> bool:
        return True


@pytest.fixture
def peers() -> Peers:
    return Peers()


@pytest.fixture
def client(store: Store, peers: Peers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Client]:
    with_judges(store)

    @asynccontextmanager
    async def opened() -> AsyncIterator[str]:
        training = TrainingServicer(store.jobs, store.registry, Deaf(), peers, None, None)  # type: ignore[arg-type]
        registry = RegistryServicer(store.jobs, store.registry, Deaf(), None)  # type: ignore[arg-type]
        host = Host(ServiceSettings(listen=""))
        host.serve(TRAINING, training_pb2_grpc.add_TrainingServiceServicer_to_server, training)
        host.serve(REGISTRY, registry_pb2_grpc.add_RegistryServiceServicer_to_server, registry)
        yield f"127.0.0.1:{await host.start('127.0.0.1:0')}"
        await host.stop(1)

    with in_thread(opened) as address, Client(Addresses(trainer=address)) as connected:
        monkeypatch.setenv("DIAPASON_TRAINER_ADDRESS", address)
        monkeypatch.chdir(tmp_path)
        yield connected


def test_a_run_says_which_reranker_it_tunes_and_what_served(client: Client, store: Store, peers: Peers) -> None:
    peers.reranker = OLD_JUDGE.digest
    run = client.train("films", reranker="judge")
    assert (run.model, run.model_kind, run.current.digest) == ("judge", MODEL_KIND_RERANKER, OLD_JUDGE.digest)
    request = store.jobs.get(RunRow, run.id).request
    assert (request["encoder"], request["config"]["learning_rate"]) == (OLD.digest, 0.0)
    client.cancel_run(run.id)
    peers.reranker = ""
    alone = client.train("films", reranker="judge")
    assert not alone.HasField("current")
    client.cancel_run(alone.id)
    encoder = client.train("films")
    assert (encoder.model, encoder.model_kind, encoder.current.digest) == ("tiny", MODEL_KIND_ENCODER, OLD.digest)


def test_a_run_of_what_is_no_reranker_names_those_there_are(client: Client, store: Store) -> None:
    with pytest.raises(NotFound, match="there is judge"):
        client.train("films", reranker="nobody")
    with pytest.raises(InvalidArgument, match="'tiny', an encoder; there is judge"):
        client.train("films", reranker="tiny")
    store.jobs.register("late", Kind.RERANKER, "somewhere", {"source": "somewhere", "kind": "reranker"})
    with pytest.raises(FailedPrecondition, match="'late' is not imported yet"):
        client.train("films", reranker="late")


@pytest.mark.parametrize(
    ("config", "reranker", "said"),
    [
        (TrainingConfig(recipe="triplet"), "judge", "for a reranker give one of auto, bce, ranknet, lambda"),
        (TrainingConfig(recipe="lambda"), "", "for an encoder give one of auto, multiple-negatives"),
        (TrainingConfig(dimensions=[16]), "judge", "scores, not vectors"),
        (TrainingConfig(learning_rate=0.5), "judge", "at most 0.1"),
    ],
)
def test_a_config_of_the_other_kind_is_refused_with_what_fits(
    client: Client, config: TrainingConfig, reranker: str, said: str
) -> None:
    with pytest.raises(InvalidArgument, match=said):
        client.train("films", config, reranker=reranker)


def test_a_reranker_needs_as_many_judgments(client: Client, peers: Peers) -> None:
    peers.said = [Judgment("q", "t0", 1.0, 1.0)]
    with pytest.raises(FailedPrecondition, match="10 are needed"):
        client.train("films", reranker="judge")


def test_the_command_tunes_a_reranker_and_tells_it_from_encoders(client: Client, command: Command) -> None:
    code, said, _ = command("train", "--collection", "films", "--reranker", "judge", "--recipe", "bce", "--no-wait")
    assert (code, "of reranker judge queued" in said) == (0, True)
    assert "reranker judge" in command("runs")[1]
    lines = {line.split()[1]: line for line in command("models")[1].splitlines() if "judge" in line or "tiny" in line}
    assert ("reranker" in lines["judge"], "encoder" in lines["tiny"]) == (True, True)
    code, _, wrong = command("train", "--collection", "films", "--reranker", "nobody")
    assert (code, "there is no reranker 'nobody'; there is judge" in wrong) == (2, True)


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    (tmp_path / "objects").mkdir()
    return from_url((tmp_path / "objects").as_uri())


def _published(store: Store, objects: ObjectStore, built: Tiny, model: str) -> PublishedVersion:
    lineage = Lineage(source="test", run_id=model)
    version = artifacts.publish(objects, built.candidate, model=model, number=1, lineage=lineage)
    store.jobs.register(model, version.kind, "somewhere", {"source": "somewhere"})
    store.registry.next_number(model)
    store.registry.publish(version, "import")
    return version


def test_the_command_says_how_to_train_and_how_far_a_run_is(client: Client, command: Command, store: Store) -> None:
    how = {"recipe": "cosine-similarity", "policy": "distances", "negatives": 2, "batch_size": 8, "held_out": 0.5}
    options = [part for name, value in how.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    code, out, _ = command("train", "-c", "films", *options, "--seed", "3", "--no-wait", "--json")
    assert code == 0
    run = store.jobs.claim(RunRow, json.loads(out)["run"]["id"])
    assert run
    assert (how | {"seed": 3}).items() <= run.request["config"].items()
    store.jobs.update(run, stage="train", progress=0.25, seconds_left=600.0, message="epoch 1 of 4")
    assert "train, 25% done, 10 min left" in command("runs", run.id[:8])[1]
    store.jobs.end(run, RunState.FAILED, "no more")
    code, out, _ = command("runs", run.id[:8], "--follow")
    assert (code, "failed: no more" in out) == (0, True)
    code, _, wrong = command("runs", "--follow")
    assert (code, "which run?" in wrong) == (2, True)


class Away(Peers):
    """Every question is answered when it comes again. What is told of a version must come before the version."""

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self.registry, self.asked = registry, Counter[str]()

    def _away(self, what: str) -> None:
        self.asked[what] += 1
        if self.asked[what] == 1:
            raise Unavailable(f"{what}: it restarts")

    def judgments(self, collection: str, consumer: str = "", policy: str = "") -> Exported:
        self._away("judgments")
        return super().judgments(collection, consumer, policy)

    def passages(self, collection: str) -> Iterator[tuple[str, str]]:
        yield from [*super().passages(collection)][:5]
        self._away("passages")
        yield from [*super().passages(collection)][5:]

    def collection(self, name: str) -> search.Collection:
        self._away("collection")
        return super().collection(name)

    def record_training(self, consumer: str, version: PublishedVersion) -> None:
        with pytest.raises(NotFoundHere):
            self.registry.version(version.digest)
        self._away("record_training")
        super().record_training(consumer, version)


AUC = {"metric": "auc", "dimensions": 0, "before": 0.5, "after": 0.8, "low": 0.1, "high": 0.4}


class Prepared(Runner):
    """Has the job's work done beforehand: a better reranker."""

    candidate: Path
    specs: ClassVar[list[Spec]] = []

    def _job(self, run: RunRow, folder: Path) -> None:
        self.specs.append(Spec.read(folder))
        shutil.copytree(self.candidate, folder / files.CANDIDATE)
        before, after = {"0": {"ndcg@10": [0.2] * 80}}, {"0": {"ndcg@10": [0.7] * 80}}
        judged = {"before": 0.1, "after": 0.2}
        result = {"before": before, "after": after, "comparisons": [AUC], "judged@10": judged}
        (folder / files.RESULT).write_text(json.dumps(result))


@pytest.fixture
def prepared(
    store: Store, objects: ObjectStore, tiny: Tiny, tiny_reranker: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[PublishedVersion, PublishedVersion, RunRow, Callable[[Peers], Prepared]]:
    """An encoder and a reranker, a run of the latter, and what carries it out."""
    monkeypatch.setattr("services.trainer.runs._AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(Prepared, "specs", [])
    monkeypatch.setattr(Prepared, "candidate", tiny_reranker.candidate, raising=False)
    encoder, base = _published(store, objects, tiny, "reader"), _published(store, objects, tiny_reranker, "critic")
    request = {"config": {"recipe": "auto"}, "gate": {}, "dry_run": False, "kind": "reranker"}
    run = store.jobs.add_run("films", "critic", "", request | {"encoder": encoder.digest})

    def runner(peers: Peers) -> Prepared:
        return Prepared(store.jobs, store.registry, objects, peers, tmp_path, Shutdown())  # type: ignore[arg-type]

    return encoder, base, run, runner


def test_a_first_reranker_is_published_with_its_base_as_parent_and_replaces_none(
    store: Store, prepared: tuple[PublishedVersion, PublishedVersion, RunRow, Callable[[Peers], Prepared]]
) -> None:
    encoder, base, run, runner = prepared
    # Search and feedback restart whenever they are needed.
    peers = Away(store.registry)
    peers.digest = encoder.digest
    for what in ("judgments", "passages"):  # given back, so that others have its place
        assert runner(peers).execute(run.id) == ""
        assert store.jobs.get(RunRow, run.id).message == f"waiting: {what}: it restarts"
        assert run.id in store.jobs.waiting()[0]
    rollout = store.jobs.get(RolloutRow, runner(peers).execute(run.id))
    assert peers.asked == {"judgments": 3, "passages": 2, "collection": 3, "record_training": 2}
    [spec] = Prepared.specs
    assert (spec.model_kind, spec.current, spec.dimensions) == ("reranker", "", [])
    assert [Path(spec.base).name, Path(spec.encoder).name] == [base.digest, encoder.digest]
    ended = store.jobs.get(RunRow, run.id)
    assert (ended.state, ended.gate["verdict"]) == (RunState.SUCCEEDED.value, "promote")
    assert ended.gate["metrics"][-1] == AUC
    assert ended.gate["judged"] == {"before": 0.1, "after": 0.2}
    assert (rollout.from_digest, rollout.to_digest) == ("", ended.published_digest)
    version = store.registry.version(ended.published_digest)
    assert (version.model, version.number, version.kind) == ("critic", 2, Kind.RERANKER)
    assert version.parent_digest == base.digest
    assert [told.digest for told in peers.told] == [version.digest]
    assert NEW.digest != version.digest


@pytest.mark.parametrize("changed", ["reranker", "encoder"])
def test_i9_what_was_compared_with_something_else_than_serves_is_not_published(
    store: Store, prepared: tuple[PublishedVersion, PublishedVersion, RunRow, Callable[[Peers], Prepared]], changed: str
) -> None:
    encoder, _, run, runner = prepared

    class Changing(Peers):
        """While the job works somebody takes another version into service."""

        asked = 0

        def collection(self, name: str) -> search.Collection:
            self.asked += 1
            self.digest = OLD.digest if (changed, self.asked) == ("encoder", 2) else encoder.digest
            self.reranker = OLD_JUDGE.digest if (changed, self.asked) == ("reranker", 2) else ""
            return super().collection(name)

    peers = Changing()
    assert runner(peers).execute(run.id) == ""
    assert Prepared.specs
    ended = store.jobs.get(RunRow, run.id)
    assert (ended.state, ended.published_digest) == (RunState.FAILED.value, "")
    assert f"another {changed} serves 'films' now than when the run was asked for" in ended.message
    assert [row.number for row, _ in store.registry.versions("critic")] == [1]
    assert peers.told == []


def test_i7_a_run_whose_version_serves_already_ends_well(
    store: Store, prepared: tuple[PublishedVersion, PublishedVersion, RunRow, Callable[[Peers], Prepared]]
) -> None:
    encoder, _, run, runner = prepared
    # As a worker that was killed after it had begun the rollout leaves it, once another has carried the rollout out.
    rollout = store.jobs.add_rollout("films", "", NEW.digest, run.id)
    peers = Peers()
    peers.digest, peers.reranker = encoder.digest, NEW.digest
    assert runner(peers).execute(run.id) == rollout.id
    assert store.jobs.get(RunRow, run.id).state == RunState.SUCCEEDED.value
