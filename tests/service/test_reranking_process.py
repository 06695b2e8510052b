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
    GUARD,
    GUARD_CORPUS,
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

QUERIES = 120


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


def _run(folder: Path) -> None:
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "services.trainer.process", str(folder)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=log, stdin=subprocess.DEVNULL, timeout=240)
    assert done.returncode == 0, (folder / "log").read_text()[-2000:]


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
    assert 0 < result["judged@10"]["after"] <= 1
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
    published = _read(folder / CANDIDATE, DESCRIPTION)
    assert published["kind"] == "reranker"
    best = max(one["ndcg@10"] for one in details["blend"])
    assert {one["share"]: one["ndcg@10"] for one in details["blend"]}[published["first_stage_share"]] == best
    assert len(details["blend"]) == 10


def test_the_same_seed_gives_the_same_weights_better_than_the_reranker_that_serves(
    tiny: Tiny, tiny_reranker: Tiny, tmp_path: Path
) -> None:
    current = str(tiny_reranker.model)
    folders = [_prepared(tmp_path / name, tiny, tiny_reranker, recipe="auto", current=current) for name in "ab"]
    _run(folders[0])
    tune(Spec.read(folders[1]), folders[1])  # also in a process that has done much else
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


def test_what_serves_is_judged_in_the_order_that_it_serves(tiny: Tiny, tiny_reranker: Tiny, tmp_path: Path) -> None:
    """With a share of nearly all it is nearly the encoder's order, whatever the reranker says."""
    current, found = str(tiny_reranker.model), {}
    for share in (0.0, 0.999):
        folder = _prepared(tmp_path / str(share), tiny, tiny_reranker, epochs=1, current=current, current_share=share)
        (folder / VALIDATION).write_text("")
        tune(Spec.read(folder), folder)
        found[share] = _read(folder, RESULT)["before"]
        # Nothing to choose by.
        assert _read(folder / CANDIDATE, DESCRIPTION)["first_stage_share"] == 0.5
    folder = _prepared(tmp_path / "alone", tiny, tiny_reranker, epochs=1)
    tune(Spec.read(folder), folder)
    assert found[0.999] == _read(folder, RESULT)["before"]
    assert found[0.999] != found[0.0]


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


def test_i9_the_guard_set_of_a_reranker_is_what_the_encoder_brings_of_its_documents(
    tiny: Tiny, tiny_reranker: Tiny, tmp_path: Path
) -> None:
    folder = _prepared(tmp_path / "guarded", tiny, tiny_reranker, epochs=1, guard="elsewhere", guard_margin=0.01)
    documents = {f"g{topic}": liking.document(topic) for topic in range(TOPICS)}
    asked = prepare(liking.judgments(40, False), 0.0).train
    judged = [Judged(one.query, {f"g{name[1:]}": 1.0 for name in one.relevant}) for one in asked if one.relevant]
    (folder / GUARD_CORPUS).write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in documents.items()))
    (folder / GUARD).write_text("".join(json.dumps(asdict(one)) + "\n" for one in judged))
    tune(Spec.read(folder), folder)
    result, details = _read(folder, RESULT), _read(folder, DETAILS)
    before, after = (result["guard"][when]["0"]["ndcg@10"] for when in ("before", "after"))
    assert len(before) == len(after) == len(judged)
    assert np.mean(after) > np.mean(before)
    found, wrong = read(details)
    assert not wrong
    assert found.guard is not None
    assert (found.guard.name, found.guard.queries) == ("elsewhere", len(judged))


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
    scores = {"a": 0.2, "b": 0.5, "c": 0.2, "judged": 9.0}
    assert pool.reranked(scores, 0.0) == ["b", "a", "c"]
    assert pool.reranked(scores, 0.9) == ["a", "b", "c"]
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
    before, after = (
        Judge({}, {"q": likely}, 0.0) for likely in (cosines, {name: 1 - value for name, value in cosines.items()})
    )
    found = held_out_pairs((before, after), material, pools)
    assert (found.labels, found.before) == ([1] + [0] * len(against), [0.9, *(cosines[name] for name in against)])
    assert found.after == [1 - score for score in found.before]
