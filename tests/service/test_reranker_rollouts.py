"""Rollouts of rerankers on a real database: no reindex, and what a rollback needs stays leased."""

import pytest

from diapason.embedder.v1.embedder_pb2 import VERSION_STATE_FAILED, VERSION_STATE_READY
from diapason.search.v1 import collection_pb2 as search
from diapason.trainer.v1.rollout_pb2 import RollbackRolloutRequest
from services.trainer.domain.model import PublishedVersion, RolloutState
from services.trainer.pacing import Shutdown
from services.trainer.rollouts import Roller
from services.trainer.servicers.rollouts import RolloutServicer
from services.trainer.tables import RolloutRow
from tests.support.jobs import NEW_JUDGE, OLD, OLD_JUDGE, ScriptedSearch, Store, leases, roll_out, with_judges

REPLACED = (OLD_JUDGE.digest, NEW_JUDGE.digest)


@pytest.fixture
def peers(store: Store) -> ScriptedSearch:
    with_judges(store)
    made = ScriptedSearch()
    made.reranker = OLD_JUDGE.digest
    return made


def held(store: Store) -> set[tuple[str, str]]:
    """Leases on rerankers."""
    return {(digest, holder) for digest, holder in leases(store) if digest != OLD.digest}


def test_a_reranker_is_rolled_out_without_a_reindex(store: Store, peers: ScriptedSearch) -> None:
    row = roll_out(store, peers, of=REPLACED)
    assert [state for state, _ in row.history] == ["loading", "switching", "watching", "retiring"]
    assert (peers.reranker, peers.digest, peers.generation) == (NEW_JUDGE.digest, OLD.digest, 2)
    assert row.reindex_id == row.index_id == ""


def test_i4_i8_the_old_reranker_stays_leased_until_the_window_is_over(store: Store, peers: ScriptedSearch) -> None:
    row = roll_out(store, peers, of=REPLACED)
    assert {digest for digest, holder in held(store) if holder == "kept"} == set(REPLACED)
    assert store.jobs.kept_beyond_the_end() == []
    store.jobs.end_retired(row.id)
    assert store.jobs.get(RolloutRow, row.id).state == RolloutState.DONE.value
    # Both until search was asked what serves; the import gave way to what came of it.
    assert held(store) == {(digest, "kept") for digest in REPLACED}
    store.jobs.release(store.jobs.kept_beyond_the_end())
    assert held(store) == set()


async def test_i8_a_rollback_by_request_keeps_the_old_reranker_until_its_route_is_seen(
    store: Store, peers: ScriptedSearch
) -> None:
    row = roll_out(store, peers, of=REPLACED)
    servicer = RolloutServicer(store.jobs, store.registry, None, peers)  # type: ignore[arg-type]
    asked = RollbackRolloutRequest(id=row.id)
    answer = await servicer.RollbackRollout(asked, None)  # type: ignore[arg-type]
    assert getattr(answer.rollout, "from").digest == OLD_JUDGE.digest
    assert (peers.reranker, peers.generation) == (OLD_JUDGE.digest, 3)
    assert (OLD_JUDGE.digest, "kept") in held(store)
    ended = store.jobs.kept_beyond_the_end()
    store.registry.sync_index_leases({"index:films-1:reranker": OLD_JUDGE.digest})
    store.jobs.release(ended)
    assert held(store) == {(OLD_JUDGE.digest, "import"), (OLD_JUDGE.digest, "index")}


def test_i8_what_was_rolled_back_to_no_reranker_has_none(store: Store, peers: ScriptedSearch) -> None:
    store.registry.report("replica", {NEW_JUDGE.digest: (VERSION_STATE_READY, "")})
    peers.reranker = ""

    class Losing(ScriptedSearch):
        def switch_reranker(self, collection: str, version: PublishedVersion, generation: int) -> search.Route:
            store.registry.report("replica", {NEW_JUDGE.digest: (VERSION_STATE_FAILED, "gone")})
            return super().switch_reranker(collection, version, generation)

    losing = Losing()
    row = roll_out(store, losing, watch=5.0, of=("", NEW_JUDGE.digest))
    assert row.state == RolloutState.ROLLED_BACK.value
    assert (losing.reranker, losing.digest, losing.generation) == ("", OLD.digest, 3)


def test_i6_a_reranker_that_can_not_be_switched_to_leaves_what_served(store: Store, peers: ScriptedSearch) -> None:
    peers.fail_at = "switch"
    row = roll_out(store, peers, of=REPLACED)
    assert row.state == RolloutState.FAILED.value
    assert (peers.reranker, peers.generation, peers.cancelled) == (OLD_JUDGE.digest, 1, [])


def test_i6_another_reranker_that_was_chosen_meanwhile_is_left_alone(store: Store, peers: ScriptedSearch) -> None:
    peers.reranker, peers.generation = "", 5
    row = roll_out(store, peers, of=REPLACED)
    assert row.state == RolloutState.FAILED.value
    assert "another version" in row.message
    assert (peers.reranker, peers.generation) == ("", 5)


def test_i7_a_reranker_rollout_taken_up_after_the_switch_does_not_switch_again(
    store: Store, peers: ScriptedSearch
) -> None:
    row = store.jobs.add_rollout("films", *REPLACED)
    claimed = store.jobs.claim(RolloutRow, row.id)
    assert claimed is not None
    store.jobs.let_go(store.jobs.update(claimed, state=RolloutState.SWITCHING.value))
    peers.reranker, peers.generation = NEW_JUDGE.digest, 2  # the switch was made, but not noted
    Roller(store.jobs, store.registry, peers, Shutdown(), 0.0, 5.0).execute(row.id)  # type: ignore[arg-type]
    assert (store.jobs.get(RolloutRow, row.id).state, peers.generation) == (RolloutState.RETIRING.value, 2)
