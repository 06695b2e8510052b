"""Models as the registry takes and lists them."""

from dataclasses import replace
from typing import Any

import pytest

from diapason.common.v1.version_pb2 import MODEL_KIND_ENCODER, MODEL_KIND_RERANKER, VersionRef
from diapason.search.v1 import collection_pb2 as search
from diapason.trainer.v1 import registry_pb2
from diapason.trainer.v1.rollout_pb2 import StartRolloutRequest
from services.kit.errors import FailedPrecondition, InvalidArgument
from services.trainer import upkeep
from services.trainer.domain.model import Kind
from services.trainer.servicers.registry import RegistryServicer
from services.trainer.servicers.rollouts import RolloutServicer
from services.trainer.tables import RunRow
from tests.support.jobs import NEW, OLD, ScriptedSearch, Store, leases


class Deaf:
    """A broker that does not answer."""

    def nudge(self, task: str, job_id: str) -> bool:
        return False


class Untouched:
    """In the place of what the call under test does not need."""


async def test_a_reranker_is_registered_and_listed_as_one(store: Store) -> None:
    servicer = RegistryServicer(store.jobs, store.registry, Deaf(), Untouched())  # type: ignore[arg-type]
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
    servicer = RegistryServicer(store.jobs, store.registry, Deaf(), Untouched())  # type: ignore[arg-type]
    asked = registry_pb2.RegisterModelRequest(name="judge", kind=kind, source="somewhere", dimensions=[16])
    with pytest.raises(InvalidArgument) as refusal:
        await servicer.RegisterModel(asked, None)  # type: ignore[arg-type]
    assert [violation.field for violation in refusal.value.violations] == [field]


async def test_a_reranker_that_is_rolled_out_by_hand_replaces_no_encoder(store: Store) -> None:
    reranker = replace(NEW, digest="9" * 64, number=9, kind=Kind.RERANKER, dimension=0, dimensions=())
    store.registry.publish(reranker, "import")
    versions = await RegistryServicer(store.jobs, store.registry, Deaf(), Untouched()).ListVersions(  # type: ignore[arg-type]
        registry_pb2.ListVersionsRequest(model="tiny"),
        None,  # type: ignore[arg-type]
    )
    assert versions.versions[0].kind == MODEL_KIND_RERANKER
    peers = ScriptedSearch()
    servicer = RolloutServicer(store.jobs, store.registry, Deaf(), peers)  # type: ignore[arg-type]
    asked = StartRolloutRequest(collection="films", version=VersionRef(digest=reranker.digest))
    rollout = (await servicer.StartRollout(asked, None)).rollout  # type: ignore[arg-type]
    assert (rollout.HasField("from"), rollout.to.digest) == (False, reranker.digest)
    assert leases(store) == {
        (OLD.digest, "import"), (reranker.digest, "import"), (reranker.digest, "rollout"), (reranker.digest, "kept"),
    }  # fmt: skip
    peers.reranker = reranker.digest
    with pytest.raises(FailedPrecondition, match="served by that version already"):
        await servicer.StartRollout(asked, None)  # type: ignore[arg-type]


def test_i4_what_search_keeps_and_the_rerankers_of_routes_are_leased() -> None:
    routed = search.Route(index="films-1", encoder=VersionRef(digest="a"), reranker=VersionRef(digest="r"))
    indexes = [search.Index(id=f"films-{n}", encoder=VersionRef(digest=digest)) for n, digest in ((1, "a"), (2, "b"))]
    plain = search.Collection(name="plain", route=search.Route(index="plain-1"), indexes=[search.Index(id="plain-1")])
    held = upkeep.leases([search.Collection(name="films", route=routed, indexes=indexes), plain])
    assert held == {"index:films-1": "a", "index:films-2": "b", "index:films-1:reranker": "r", "index:plain-1": ""}
