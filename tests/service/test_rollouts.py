"""Rollouts on a real database; only search and the replicas are scripted."""

import pytest

from diapason.embedder.v1.embedder_pb2 import VERSION_STATE_FAILED, VERSION_STATE_LOADING, VERSION_STATE_READY
from diapason.search.v1 import collection_pb2 as search
from services.trainer.domain.model import RolloutState
from services.trainer.pacing import Shutdown
from services.trainer.rollouts import Roller
from services.trainer.tables import RolloutRow
from tests.support.jobs import NEW, OLD, ScriptedSearch, Store, leases, roll_out


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
