"""The process of a run by itself, on a tiny model: the same twice, and taken up again after `kill -9`."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer.domain.data import Judged, Judgment, parted_guard, prepare
from services.trainer.domain.examples import rows
from services.trainer.domain.recipes import CLASSES
from services.trainer.jobprocess import job_command
from services.trainer.process import WORKER_PID, loading, mixing
from services.trainer.process.encoding import Encoder
from services.trainer.process.guarding import Guard
from services.trainer.process.recipes import RECIPES
from services.trainer.process.spec import (
    CANDIDATE,
    CORPUS,
    DETAILS,
    GUARD,
    GUARD_CORPUS,
    HELD_OUT,
    RESULT,
    TRAIN,
    VALIDATION,
    WEIGHTS,
    Spec,
    read_lines,
)
from services.trainer.process.training import Training
from services.trainer.process.tuning import tune
from tests.conftest import Tiny
from tests.support.words import TOPICS, document, query

pytestmark = pytest.mark.slow

_EPOCHS = 6


def _prepared(folder: Path, tiny: Tiny, **more: Any) -> Path:
    folder.mkdir()
    judgments = [
        Judgment(query(topic, wording), f"t{topic + other}", float(not other), 1.0)
        for topic in range(TOPICS - 1)
        for wording in range(3)
        for other in (0, 1)
    ]
    dataset = prepare(judgments, 0.25)
    for name, some in ((TRAIN, dataset.train), (VALIDATION, dataset.validation), (HELD_OUT, dataset.held_out)):
        _lines(folder / name, [asdict(one) for one in some])
    texts = [{"id": f"t{topic}", "text": document(topic)} for topic in range(TOPICS)]
    _lines(folder / CORPUS, texts)
    given: dict[str, Any] = {
        "recipe": "auto",
        "negatives": 2,
        "epochs": _EPOCHS,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "seed": 3,
    }
    Spec(kind="fine-tune", base=str(tiny.model), current=str(tiny.model), dimensions=[16], **(given | more)).write(
        folder
    )
    return folder


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _started(folder: Path, processes: int = 1) -> "subprocess.Popen[str]":
    command = job_command(folder, processes)
    with (folder / "log").open("w") as log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True)


def _finished(process: "subprocess.Popen[str]", folder: Path) -> list[dict[str, Any]]:
    """All that it said."""
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, (folder / "log").read_text()[-2000:]
    return [json.loads(line) for line in said.splitlines()]


def _weights(folder: Path) -> dict[str, bytes]:
    root = folder / CANDIDATE / WEIGHTS
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.safetensors"))}


def test_the_same_data_and_seed_give_the_same_weights(tiny: Tiny, tmp_path: Path) -> None:
    folders = [_prepared(tmp_path / name, tiny, epochs=2) for name in ("one", "two")]
    _finished(_started(folders[0]), folders[0])
    tune(Spec.read(folders[1]), folders[1])  # also in a process that has done much else
    first, second = map(_weights, folders)
    assert first
    assert first == second
    assert (folders[0] / RESULT).read_text() == (folders[1] / RESULT).read_text()
    details = json.loads((folders[0] / DETAILS).read_text())
    assert details["validation"][0]["step"] == 0
    assert {point["weight"] for point in details["mix"]} == {0.25, 0.5, 0.75, 1.0}


def test_i7_a_training_goes_on_from_its_checkpoint_after_a_kill(tiny: Tiny, tmp_path: Path) -> None:
    folder = _prepared(tmp_path / "killed", tiny)
    process = _started(folder)
    assert process.stdout
    for line in process.stdout:
        # It is told only after the checkpoint before it was written.
        if json.loads(line).get("loss") and list((folder / "trainer").glob("checkpoint-*/trainer_state.json")):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (folder / RESULT).exists()
    said = _finished(_started(folder), folder)
    steps = [one["loss"][0] for one in said if "loss" in one]
    curve = [point["step"] for point in json.loads((folder / DETAILS).read_text())["training"]]
    assert steps[0] > curve[0]  # the beginning was not trained again
    assert curve == list(range(curve[0], curve[-1] + 1, curve[0]))  # and is told of
    assert (folder / RESULT).exists()


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_i9_one_half_of_a_guard_set_steers_and_the_other_judges(tiny: Tiny, tmp_path: Path, margin: float) -> None:
    folder = _prepared(tmp_path / "guarded", tiny, epochs=2, guard="elsewhere", guard_margin=margin)
    texts = {f"g{topic}": document(topic) for topic in range(TOPICS)}
    judged = [Judged(query(topic, wording), {f"g{topic}": 1.0}) for topic in range(TOPICS) for wording in (3, 4)]
    _lines(folder / GUARD_CORPUS, [{"id": name, "text": text} for name, text in texts.items()])
    _lines(folder / GUARD, [asdict(one) for one in judged])
    tune(Spec.read(folder), folder)
    result, details = (json.loads((folder / name).read_text()) for name in (RESULT, DETAILS))
    steering, judging = parted_guard(judged)
    assert min(len(steering), len(judging)) >= 15
    assert {len(found["ndcg@10"]) for found in result["guard"]["after"].values()} == {len(judging)}
    chosen = next(one for one in details["mix"] if one["weight"] == details["mix_chosen"])
    fallen = [one for one in details["mix"] if one.get("guard", 0.0) < -margin]
    assert "guard" in chosen
    assert chosen not in fallen or chosen["guard"] == max(one["guard"] for one in fallen)
    # What stands before it was asked about and had forgotten too much.
    better = [one for one in details["mix"] if one["ndcg@10"] > chosen["ndcg@10"]]
    assert all(one in fallen for one in better)


def test_i9_the_guard_set_is_measured_before_and_after(tiny: Tiny, tmp_path: Path) -> None:
    folder = _prepared(tmp_path / "guarded", tiny, epochs=1, guard="elsewhere")
    texts = {f"g{topic}": document(topic) for topic in range(4)}
    judged = [Judged(query(topic, 0), {f"g{topic}": 1.0, f"g{3 - topic}": 0.0}) for topic in range(4)]
    _lines(folder / GUARD_CORPUS, [{"id": name, "text": text} for name, text in texts.items()])
    _lines(folder / GUARD, [asdict(one) for one in [*judged, Judged("nothing is relevant", {"g0": 0.0})]])
    tune(Spec.read(folder), folder)
    result, details = (json.loads((folder / name).read_text()) for name in (RESULT, DETAILS))
    for side in ("before", "after"):
        assert {size: len(found["ndcg@10"]) for size, found in result["guard"][side].items()} == {"32": 4, "16": 4}
    # As a base that nobody trained sees them, by another way.
    model = loading.load(str(tiny.model))
    found = Guard([], judged, texts).scores(judged, Encoder(model), [32])
    assert result["guard"]["before"]["32"]["ndcg@10"] == pytest.approx(found[32]["ndcg@10"])
    assert (details["guard"]["name"], details["guard"]["queries"]) == ("elsewhere", 4)
    assert 0 < result["judged@10"]["after"] <= 1


def test_two_processes_train_together_and_one_speaks(tiny: Tiny, tmp_path: Path) -> None:
    folder = _prepared(tmp_path / "two", tiny, epochs=2, batch_size=4)
    said = _finished(_started(folder, processes=2), folder)
    steps = [one["loss"][0] for one in said if "loss" in one]
    assert steps == sorted(set(steps))
    details = json.loads((folder / DETAILS).read_text())
    alone = math.ceil(details["data"]["rows"] / 4) * 2
    looked = [point["step"] for point in details["validation"]]
    assert 0 < max(looked) <= math.ceil(alone / 2)
    assert looked == sorted(set(looked))
    assert _weights(folder) != {}
    assert (folder / RESULT).exists()


def test_i7_a_training_ends_with_its_worker_though_a_launcher_stands_between(tiny: Tiny, tmp_path: Path) -> None:
    folder = _prepared(tmp_path / "orphan", tiny)
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = subprocess.Popen(
        job_command(folder, 1),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {WORKER_PID: str(worker.pid)},
    )
    assert process.stdout
    assert process.stdout.readline()  # it has begun
    worker.kill()
    worker.communicate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"error" not in said
    assert not (folder / RESULT).exists()


def test_a_training_for_which_there_is_no_memory_does_not_begin(tiny: Tiny, tmp_path: Path) -> None:
    folder = _prepared(tmp_path / "huge", tiny, batch_size=10_000_000)
    process = _started(folder)
    said, _ = process.communicate(timeout=180)
    assert process.returncode
    errors = [error for line in said.splitlines() if (error := json.loads(line).get("error"))]
    assert len(errors) == 1
    assert "of memory" in errors[0]
    assert "lower the batch size" in errors[0]
    assert not (folder / "trainer").exists()


def test_a_batch_for_which_there_is_too_little_is_an_error_that_says_so(tiny: Tiny, tmp_path: Path) -> None:
    # Two processes leave out what fills no batch, and here nothing does.
    folder = _prepared(tmp_path / "large", tiny, epochs=1, batch_size=64)
    process = _started(folder, processes=2)
    said, _ = process.communicate(timeout=180)
    assert process.returncode
    errors = [json.loads(line).get("error") for line in said.splitlines()]
    assert any(error and "lower the batch size" in error for error in errors)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(tiny: Tiny, tmp_path: Path, name: str) -> None:
    folder = _prepared(tmp_path / name, tiny, epochs=1)
    texts = {one["id"]: one["text"] for one in read_lines(folder / CORPUS)}
    judged = [Judged(**one) for one in read_lines(folder / TRAIN)]
    if name == CLASSES:
        judged = [replace(one, label=f"class {number % 4}") for number, one in enumerate(judged)]
    model, recipe = loading.load(str(tiny.model)), RECIPES[name]
    before = mixing.weights_of(model)
    made = rows(recipe.form, judged, {one.query: list(texts) for one in judged}, 2)
    curves = Training(model, recipe, Spec.read(folder), folder).run(made, texts, None)
    assert curves.losses
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())


def _failed(command: list[str], folder: Path) -> str:
    """The reason that a process gave for its failure."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode != 0
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert not (folder / RESULT).exists()
    [reason] = [one["error"] for one in said if "error" in one]
    return str(reason)


@pytest.mark.parametrize(
    ("epochs", "said"), [(_EPOCHS, "the loss became nan at step 5;"), (1, "made weights that are no numbers;")]
)
def test_a_loss_that_is_no_number_ends_the_training(tiny: Tiny, tmp_path: Path, epochs: int, said: str) -> None:
    batch = 16 if epochs > 1 else 64  # all of an epoch in fewer steps than the loss is looked at
    folder = _prepared(tmp_path / "nan", tiny, learning_rate=1e38, epochs=epochs, batch_size=batch)
    reason = _failed([sys.executable, "-m", "services.trainer.process", str(folder)], folder)
    assert said in reason
    assert reason.endswith("lower the learning rate")


@pytest.mark.parametrize("kilobytes", [16, 90])
def test_a_disk_that_is_full_is_said_to_be(tiny: Tiny, tmp_path: Path, kilobytes: int) -> None:
    folder = _prepared(tmp_path / "full", tiny, epochs=1)
    limited = f'ulimit -f {kilobytes} && exec "{sys.executable}" -m services.trainer.process "{folder}"'
    reason = _failed(["bash", "-c", limited], folder)
    assert reason.startswith(f"there is no room left to write in {folder} (")
    assert "make room, then start the run again" in reason
