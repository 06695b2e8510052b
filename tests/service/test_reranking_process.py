"""The process of a reranker's run by itself, on tiny models."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.trainer.domain.data import Judged, prepare
from services.trainer.domain.details import read
from services.trainer.domain.model import Kind
from services.trainer.process import loading
from services.trainer.process.firststage import Pool
from services.trainer.process.judging import Judge, held_out_pairs
from services.trainer.process.material import Material
from services.trainer.process.reranking import tune
from services.trainer.process.scoring import likely, scores
from services.trainer.process.spec import (
    CANDIDATE,
    CORPUS,
    DESCRIPTION,
    DETAILS,
    HELD_OUT,
    RESULT,
    TRAIN,
    VALIDATION,
    WEIGHTS,
    JobError,
    Spec,
)
from tests.conftest import Tiny
from tests.support import liking
from tests.support.words import TOPICS

pytestmark = pytest.mark.slow

QUERIES = 160


def _prepared(folder: Path, encoder: Tiny, reranker: Tiny, graded: bool = False, **more: Any) -> Path:
    folder.mkdir()
    dataset = prepare(liking.judgments(QUERIES, graded), 0.25)
    for name, some in ((TRAIN, dataset.train), (VALIDATION, dataset.validation), (HELD_OUT, dataset.held_out)):
        (folder / name).write_text("".join(json.dumps(asdict(one)) + "\n" for one in some))
    texts = [{"id": f"t{topic}", "text": liking.document(topic)} for topic in range(TOPICS)]
    (folder / CORPUS).write_text("".join(json.dumps(one) + "\n" for one in texts))
    given: dict[str, Any] = {"recipe": "bce", "negatives": 2, "epochs": 2, "batch_size": 32, "learning_rate": 2e-3}
    Spec(
        kind="fine-tune",
        model_kind=Kind.RERANKER.value,
        base=str(reranker.model),
        encoder=str(encoder.model),
        seed=3,
        **(given | more),
    ).write(folder)
    return folder


def _run(*folders: Path) -> None:
    """Side by side."""
    started = []
    for folder in folders:
        with (folder / "log").open("w") as log:
            command = [sys.executable, "-m", "services.trainer.process", str(folder)]
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, stdin=subprocess.DEVNULL))
    for folder, process in zip(folders, started, strict=True):
        assert process.wait(240) == 0, (folder / "log").read_text()[-2000:]


def _read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


def _mean(result: dict[str, Any], when: str) -> float:
    return float(np.mean(result[when]["0"]["ndcg@10"]))


def _learned(folder: Path) -> None:
    """That it is better than what it was, and than what it is compared with, and left all that comes of a run."""
    result, details = _read(folder, RESULT), _read(folder, DETAILS)
    steering = [point["ndcg@10"] for point in details["validation"]]
    assert max(steering) > steering[0] + 0.2
    assert _mean(result, "after") > _mean(result, "before") + 0.2
    compared = {one["metric"]: one for one in result["comparisons"]}
    assert compared["auc"]["after"] > 0.9
    assert compared["auc"]["low"] > 0
    found, wrong = read(details)
    assert not wrong
    assert found.pairs
    assert found.scores
    assert found.held_out
    assert found.held_out.shown
    split = found.scores.after
    assert (found.kind, len(split.liked)) == ("reranker", sum(found.pairs.labels))
    assert len(split.liked) + len(split.disliked) == len(found.pairs.labels)
    assert _read(folder / CANDIDATE, DESCRIPTION)["kind"] == "reranker"


def test_the_same_seed_gives_the_same_weights_better_than_the_reranker_that_serves(
    tiny: Tiny, tiny_reranker: Tiny, tmp_path: Path
) -> None:
    current = str(tiny_reranker.model)
    folders = [_prepared(tmp_path / name, tiny, tiny_reranker, recipe="auto", current=current) for name in "ab"]
    _run(*folders)
    first, second = (
        {path.name: path.read_bytes() for path in (folder / CANDIDATE / WEIGHTS).rglob("*.safetensors")}
        for folder in folders
    )
    assert first
    assert first == second
    assert _read(folders[0], RESULT) == _read(folders[1], RESULT)
    _learned(folders[0])
    details = _read(folders[0], DETAILS)
    assert (details["config"]["recipe"], details["config"]["compared with"]) == ("bce", "the reranker that serves")
    # Nothing has learned yet to tell them apart, but it is asked about them.
    assert 0.2 < np.mean(details["pairs"]["before"]) < 0.8
    base, published = (
        loading.load(str(source), Kind.RERANKER) for source in (current, folders[0] / CANDIDATE / WEIGHTS)
    )
    assert published.max_seq_length == base.max_seq_length
    good, other = scores(published, [(liking.asked(3), liking.document(topic)) for topic in (0, 1)])
    assert good > other


@pytest.mark.parametrize("name", ["ranknet", "lambda"])
def test_lists_teach_an_order_better_than_the_encoders(
    tiny: Tiny, tiny_reranker: Tiny, tmp_path: Path, name: str
) -> None:
    folder = _prepared(tmp_path / name, tiny, tiny_reranker, graded=True, recipe=name)
    tune(Spec.read(folder), folder)
    _learned(folder)
    details = _read(folder, DETAILS)
    assert details["config"]["compared with"] == "the encoder's order"
    # I7: taken up again it goes on from its last checkpoint, the end of the training.
    shutil.rmtree(folder / CANDIDATE)
    tune(Spec.read(folder), folder)
    again = _read(folder, DETAILS)
    assert (again["training"], again["validation"]) == (details["training"], details["validation"])
    assert again["held_out"] == details["held_out"]


def test_judgments_that_all_say_the_same_are_refused(tiny: Tiny, tiny_reranker: Tiny, tmp_path: Path) -> None:
    folder = _prepared(tmp_path / "same", tiny, tiny_reranker, recipe="ranknet")
    line = json.dumps({"query": "q", "targets": {f"t{i}": 1.0 for i in range(TOPICS)}, "weights": {}})
    (folder / TRAIN).write_text(line + "\n")
    with pytest.raises(JobError, match="no query has documents of different targets"):
        tune(Spec.read(folder), folder)


def test_scores_of_pairs_are_the_same_by_either_way(tiny_reranker: Tiny) -> None:
    model = loading.load(str(tiny_reranker.model), Kind.RERANKER)
    some = [(liking.asked(i), liking.document(i)) for i in range(TOPICS)]
    model.train()
    alone, together = scores(model, some), scores(model, some * 10)
    assert model.training
    assert together[:TOPICS] == pytest.approx(alone, abs=2e-2)
    assert all(0 <= score <= 1 for score in likely(model, together))
    assert scores(model, []) == []


def test_only_what_the_encoder_brought_first_is_put_in_order_and_equals_stay_as_they_were() -> None:
    pool = Pool(("a", "b", "c"), {"a": 0.9, "b": 0.8, "c": 0.7, "judged": 0.1}, [])
    assert pool.reranked({"a": 0.2, "b": 0.5, "c": 0.2, "judged": 9.0}) == ["b", "a", "c"]
    assert pool.cut({"c", "judged"}, 2).first == ("a", "c")
    assert pool.cut({"b"}, 9).first == pool.first
    assert pool.cut({"a", "b", "c"}, 2).first == pool.first


@pytest.mark.parametrize(
    ("targets", "against"), [({"a": 1.0, "far": 0.0}, ["far"]), ({"a": 1.0}, ["b", "c"])], ids=["refused", "liked only"]
)
def test_liked_pairs_stand_against_refused_ones_or_if_there_are_none_against_what_nobody_judged(
    targets: dict[str, float], against: list[str]
) -> None:
    cosines = {"a": 0.9, "b": 0.8, "c": 0.7, "far": 0.1}
    pools = {"q": Pool(("a", "b", "c"), cosines, [])}
    material = Material(list(cosines), {}, [], [], [Judged("q", targets)], {})
    before, after = Judge({}, {"q": cosines}), Judge({}, {"q": {name: 1 - value for name, value in cosines.items()}})
    found = held_out_pairs((before, after), material, pools)
    assert (found.labels, found.before) == ([1] + [0] * len(against), [0.9, *(cosines[name] for name in against)])
    assert found.after == [1 - score for score in found.before]
