"""Trackers: what the setting may say, and a run that TensorBoard follows."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from obstore.store import from_url

from services.kit.server import CannotStart
from services.trainer import tracking
from services.trainer.domain.data import Judgment, prepare
from services.trainer.pacing import Shutdown
from services.trainer.process import spec as files
from services.trainer.process.spec import Spec
from services.trainer.runs import Runner
from services.trainer.tables import RunRow
from tests.conftest import Tiny
from tests.support.jobs import OLD, ScriptedSearch, Store
from tests.support.words import TOPICS, document, query


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages by the names of two trackers; wandb is not there."""
    for name in ("tensorboard", "mlflow"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages")])
    for name in tracking.TRACKERS:
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("named", "chosen"),
    [
        ("", []),
        (" , ", []),
        ("tensorboard", ["tensorboard"]),
        ("MLflow, tensorboard,mlflow", ["mlflow", "tensorboard"]),
    ],
)
def test_trackers_are_named_by_commas_each_once(named: str, chosen: list[str]) -> None:
    assert tracking.chosen(named) == chosen


@pytest.mark.usefixtures("installed")
def test_a_tracker_that_is_unknown_or_not_installed_is_refused_with_what_to_do() -> None:
    with pytest.raises(CannotStart, match=r"'comet'; known are tensorboard, mlflow, wandb"):
        tracking.chosen("tensorboard,comet")
    with pytest.raises(CannotStart, match=r"`pip install wandb`"):
        tracking.chosen("tensorboard,wandb")


def test_a_worker_with_a_tracker_that_it_can_not_have_does_not_start(tmp_path: Path) -> None:
    given = {
        "DIAPASON_TRACKERS": "ledger",
        "DIAPASON_DATABASE_URL": f"sqlite:///{tmp_path / 'trainer.db'}",
        "DIAPASON_ARTIFACTS_URL": tmp_path.as_uri(),
        "DIAPASON_WORK_DIR": str(tmp_path / "work"),
    }
    command = [sys.executable, "-m", "services.trainer.worker"]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "worker: DIAPASON_TRACKERS names 'ledger'; known are tensorboard, mlflow, wandb, by commas\n"
    assert not (tmp_path / "trainer.db").exists()


def test_the_spec_carries_the_trackers(store: Store, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "weights" / OLD.digest).mkdir(parents=True)
    seen: list[list[str]] = []
    peers = ScriptedSearch()

    class Stopped(Runner):
        """Looks at the spec, and leaves the work."""

        def _job(self, run: RunRow, folder: Path) -> None:
            seen.append(Spec.read(folder).trackers)
            raise SystemExit

    for trackers in ([], ["mlflow", "wandb"]):
        run = _collected(store, tmp_path)
        with pytest.raises(SystemExit):
            Stopped(store.jobs, store.registry, None, peers, work, Shutdown(), trackers=trackers).execute(run.id)  # type: ignore[arg-type]
    assert seen == [[], ["mlflow", "wandb"]]


@pytest.mark.slow
def test_tensorboard_follows_a_run_and_its_files_outlive_the_runs_folder(
    store: Store, tiny: Tiny, tmp_path: Path
) -> None:
    accumulating = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    run, work = _collected(store, tmp_path), tmp_path / "work"
    shutil.copytree(tiny.model, work / "weights" / OLD.digest)
    (tmp_path / "objects").mkdir()
    objects = from_url((tmp_path / "objects").as_uri())
    runner = Runner(store.jobs, store.registry, objects, ScriptedSearch(), work, Shutdown(), trackers=["tensorboard"])  # type: ignore[arg-type]
    runner.execute(run.id)
    ended = store.jobs.get(RunRow, run.id)
    assert ended.state == "succeeded", ended.message
    assert not (work / "runs" / run.id).exists()
    events = accumulating.EventAccumulator(str(work / "tensorboard" / run.id))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(step, pytest.approx(loss, rel=1e-5)) for step, _, loss in ended.losses]
    before, after = events.Scalars("eval/ndcg_at_10")
    assert before.step == 0
    assert after.step >= losses[-1][0] > 0
    assert 0 < before.value <= 1


def _collected(store: Store, folder: Path) -> RunRow:
    """A run as one that is taken up again finds it after its judgments were fetched."""
    asked = {"config": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}, "gate": {}, "dry_run": True}
    run = store.jobs.add_run(f"films-{len(store.jobs.runs(10))}", "tiny", OLD.digest, asked)
    made = folder / "work" / "runs" / run.id
    made.mkdir(parents=True)
    judgments = [
        Judgment(query(topic, wording), f"t{topic + other}", float(not other), 1.0)
        for topic in range(TOPICS - 1)
        for wording in range(3)
        for other in (0, 1)
    ]
    data = prepare(judgments, 0.25)
    some = {files.TRAIN: data.train, files.VALIDATION: data.validation, files.HELD_OUT: data.held_out}
    lines = {name: [asdict(one) for one in judged] for name, judged in some.items()}
    lines[files.CORPUS] = [{"id": f"t{topic}", "text": document(topic)} for topic in range(TOPICS)]
    for name, rows in lines.items():
        (made / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run
