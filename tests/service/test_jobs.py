"""Jobs, leases and versions on a real database."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.kit.errors import AlreadyExists, FailedPrecondition, NotFound
from services.trainer.domain.model import Kind, RolloutState, RunState
from services.trainer.jobs import MAX_ATTEMPTS, LostJob, worn_out
from services.trainer.pacing import Shutdown
from services.trainer.rollouts import Roller
from services.trainer.runs import Runner
from services.trainer.tables import RolloutRow, RunRow
from tests.support.jobs import NEW, OLD, ScriptedSearch, Store, age, leases, run_of


@pytest.fixture
def store(each_store: Store) -> Store:
    return each_store


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


def test_i9_nothing_is_tuned_while_what_it_would_be_compared_with_changes(store: Store) -> None:
    rollout = store.jobs.add_rollout("films", OLD.digest, NEW.digest)
    with pytest.raises(FailedPrecondition, match=rollout.id):
        run_of(store)
    store.jobs.add_run("books", "tiny", OLD.digest, {})
    store.jobs.roll_back(rollout.id, "by request")
    assert run_of(store)


@pytest.mark.parametrize("kind", ["run", "rollout", "model"])
def test_of_those_who_start_the_same_at_once_one_does(store: Store, kind: str) -> None:
    begin = threading.Barrier(6)
    start: dict[str, Callable[[], object]] = {
        "run": lambda: run_of(store),
        "rollout": lambda: store.jobs.add_rollout("films", OLD.digest, NEW.digest),
        "model": lambda: store.jobs.register("same", Kind.ENCODER, "x", {}),
    }

    def started(_: int) -> bool:
        begin.wait(20)
        try:
            start[kind]()
        except (FailedPrecondition, AlreadyExists):
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(started, range(6))).count(True) == 1


def test_folders_of_runs_that_ended_are_removed(store: Store, tmp_path: Path) -> None:
    claimed = store.jobs.claim(RunRow, run_of(store).id)
    assert claimed is not None
    store.jobs.end(claimed, RunState.FAILED, "it could not")
    waiting = run_of(store)
    folders = {name: tmp_path / "runs" / name for name in (claimed.id, waiting.id, "unheard-of")}
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text("what people asked")
    Runner(store.jobs, store.registry, None, None, tmp_path, Shutdown()).clear()  # type: ignore[arg-type]
    assert [name for name, folder in folders.items() if folder.exists()] == [waiting.id]


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
