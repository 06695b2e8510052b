"""What the benchmark of learning gives to training."""

import json
from pathlib import Path

import pytest

from benchmarks.learning import lessons
from benchmarks.learning.lessons import Sample
from services.trainer.domain.model import TrainingConfig
from tests.support import words
from tests.support.splits import write_beir

JUDGMENTS = 3 * words.TOPICS


@pytest.fixture
def lesson(tmp_path: Path) -> Path:
    return lessons.take(write_beir(tmp_path / "source", train=3, test=2), tmp_path / "lesson")


def test_a_lesson_has_nothing_of_the_test_split(lesson: Path) -> None:
    assert [path.name for path in (lesson / "qrels").iterdir()] == ["train.tsv"]
    asked = {json.loads(line)["_id"] for line in (lesson / "queries.jsonl").read_text().splitlines()}
    assert asked == {f"q{topic}-{wording}" for topic in range(words.TOPICS) for wording in range(3)}


def test_what_a_run_is_given_comes_from_the_train_split(lesson: Path, tmp_path: Path) -> None:
    config = TrainingConfig(dimensions=(16,), held_out=0.25)
    dataset = lessons.prepare(lesson, Sample(), config, tmp_path / "base", tmp_path / "run")
    given = [
        json.loads(line)["query"]
        for name in ("train", "validation", "held_out")
        for line in (tmp_path / "run" / f"{name}.jsonl").read_text().splitlines()
    ]
    assert set(given) <= {words.query(topic, wording) for topic in range(words.TOPICS) for wording in range(3)}
    assert len(given) == len(set(given)) == len({w for t in range(words.TOPICS) for w in _queries(t)})
    assert dataset.held_out


def test_what_may_not_be_forgotten_comes_from_a_train_split_too(lesson: Path, tmp_path: Path) -> None:
    lessons.prepare(lesson, Sample(), TrainingConfig(), tmp_path / "base", tmp_path / "run")
    lessons.guard(lesson, "other", tmp_path / "run")
    judged = [json.loads(line) for line in (tmp_path / "run" / "guard.jsonl").read_text().splitlines()]
    asked = {one["query"] for one in judged}
    assert asked == {words.query(topic, wording) for topic in range(words.TOPICS) for wording in range(3)}
    corpus = [json.loads(line)["id"] for line in (tmp_path / "run" / "guard_corpus.jsonl").read_text().splitlines()]
    assert {name for one in judged for name in one["targets"]} <= set(corpus)
    spec = json.loads((tmp_path / "run" / "spec.json").read_text())
    assert (spec["guard"], spec["guard_margin"]) == ("other", 0.01)


def test_few_judgments_are_the_first_of_many(lesson: Path) -> None:
    few, many = (lessons.thumbs(lesson, Sample(judgments=count)) for count in (10, 50))
    assert (len(few), len(many)) == (10, 50)
    assert few == many[:10]
    assert len({one.query for one in few}) == 10


def test_the_share_that_is_flipped_refuses_what_was_right_and_likes_another(lesson: Path) -> None:
    right = {(one.query, one.document_id) for one in lessons.thumbs(lesson, Sample())}
    flipped = lessons.thumbs(lesson, Sample(flipped=0.3))
    refused = {(one.query, one.document_id) for one in flipped if one.target == 0.0}
    liked = {(one.query, one.document_id) for one in flipped if one.target == 1.0}
    assert refused <= right
    assert len(refused) == pytest.approx(0.3 * len(right), abs=2)
    assert not refused & liked
    assert len(liked - right) == pytest.approx(0.3 * len(right), abs=4)


def _queries(topic: int) -> list[str]:
    return [words.query(topic, wording) for wording in range(3)]
