"""Runs on what users brought: asked for over real gRPC, collected by the worker, trained in its process."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diapason.errors import FailedPrecondition, InvalidArgument, NotFound
from diapason.trainer.v1 import dataset_pb2 as pb
from diapason.trainer.v1 import training_pb2 as training
from services.trainer.brought import Wanted
from services.trainer.collecting import Collected, TooLittle, collect
from services.trainer.domain.data import Judgment
from services.trainer.process import spec as files
from services.trainer.process.spec import read_lines
from services.trainer.runs import Runner
from services.trainer.tables import RunRow
from tests.conftest import Tiny
from tests.support.embedding import publish
from tests.support.jobs import OLD, Store, with_judges
from tests.support.terminal import Command
from tests.support.training import Trainer, serving
from tests.support.words import TOPICS, document, query

J, P, T = pb.DATASET_FORM_JUDGMENTS, pb.DATASET_FORM_PAIRS, pb.DATASET_FORM_TRIPLETS
S, C, E = pb.DATASET_FORM_SCORED_PAIRS, pb.DATASET_FORM_CLASSES, pb.DATASET_FORM_EVALUATION
CONFIG = training.TrainingConfig(epochs=1, batch_size=16, learning_rate=1e-3)
ASKED = [(topic, wording) for topic in range(TOPICS) for wording in range(3)]


@pytest.fixture
def trainer(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    with serving(store, tmp_path) as made:
        monkeypatch.setenv("DIAPASON_TRAINER_ADDRESS", made.address)
        yield made


def text(of: str) -> pb.Passage:
    return pb.Passage(text=of)


def rows(form: pb.DatasetForm.ValueType) -> list[pb.DatasetRow]:
    """Three ways to ask for each topic; odd topics have documents that the collection lacks."""

    def passage(topic: int) -> pb.Passage:
        return text(f"another {document(topic)}") if topic % 2 else pb.Passage(id=f"t{topic}")

    made: list[pb.DatasetRow] = []
    for topic, wording in ASKED:
        asked, other = query(topic, wording), (topic + 1) % TOPICS
        match form:
            case pb.DATASET_FORM_JUDGMENTS:
                for document_, grade in ((topic, 1.0), (other, 0.0)):
                    judgment = pb.JudgmentRow(query=asked, document=passage(document_), grade=grade)
                    made.append(pb.DatasetRow(judgment=judgment))
            case pb.DATASET_FORM_PAIRS:
                made.append(pb.DatasetRow(pair=pb.PairRow(query=asked, positive=passage(topic), weight=2)))
            case pb.DATASET_FORM_TRIPLETS:
                triplet = pb.TripletRow(query=asked, positive=passage(topic), negative=passage(other))
                made.append(pb.DatasetRow(triplet=triplet))
            case pb.DATASET_FORM_SCORED_PAIRS:
                for away, score in enumerate((0.9, 0.3, -0.2, -0.8)):
                    scored = pb.ScoredPairRow(query=asked, document=passage((topic + away) % TOPICS), score=score)
                    made.append(pb.DatasetRow(scored_pair=scored))
            case pb.DATASET_FORM_CLASSES:
                made.append(pb.DatasetRow(labelled=pb.ClassRow(text=asked, label=f"class {topic % 8}")))
            case _:
                judged = pb.EvaluationJudgment(query=asked, document_id=f"e{topic}", grade=1)
                made.append(pb.DatasetRow(evaluation_judgment=judged))
    if form == E:
        documents = (pb.EvaluationDocument(id=f"e{topic}", text=document(topic)) for topic in range(TOPICS))
        made += [pb.DatasetRow(evaluation_document=one) for one in documents]
    return made


def brought(trainer: Trainer, **forms: pb.DatasetForm.ValueType) -> None:
    for name, form in forms.items():
        trainer.client.upload_dataset(name, form, rows(form))


def asked(trainer: Trainer, *datasets: str, without_feedback: bool = True, guard: str = "", **config: Any) -> RunRow:
    """A queued run's row."""
    wish = training.TrainingConfig(**config)
    wish.MergeFrom(CONFIG)
    gate = training.GatePolicy(guard=guard)
    run = trainer.client.train("films", wish, gate, True, datasets, without_feedback)
    return trainer.store.jobs.get(RunRow, run.id)


def collected(trainer: Trainer, run: RunRow, feedback: Sequence[Judgment] = ()) -> Collected:
    wanted = Wanted.read(run.request)
    return collect(trainer.objects, wanted, feedback, dict(trainer.peers.documents), 0.25)


def test_a_triplet_of_one_document_by_its_id_and_by_its_text_fails_the_run(trainer: Trainer) -> None:
    wrong = pb.TripletRow(query="both", positive=pb.Passage(id="t3"), negative=text(f" {document(3)}"))
    trainer.client.upload_dataset("mine", T, [*rows(T), pb.DatasetRow(triplet=wrong)])
    ended = trainer.execute(asked(trainer, "mine").id)
    assert ended.state == "failed"
    assert "a triplet of 'both' has document 't3' as positive and as negative" in ended.message
    assert not list((trainer.folder / "work" / "runs").iterdir())


def targets(found: Collected) -> dict[str, Mapping[str, float]]:
    every = (*found.dataset.train, *found.dataset.validation, *found.dataset.held_out)
    return {one.query: dict(one.targets) for one in every}


@pytest.mark.parametrize("form", [J, P, T, S])
def test_every_form_becomes_judgments_of_documents_old_and_new(
    trainer: Trainer, form: pb.DatasetForm.ValueType
) -> None:
    brought(trainer, mine=form)
    found = collected(trainer, asked(trainer, "mine"))
    said = targets(found)
    expected = {J: [1.0, 0.0], P: [1.0], T: [1.0, 0.0], S: [0.9, 0.3, -0.2, -0.8]}[form]
    for topic, wording in ASKED[6:-12]:
        one = said[query(topic, wording)]
        assert sorted(one.values(), reverse=True) == expected
        [relevant] = [name for name, target in one.items() if target == expected[0]]
        assert found.corpus[relevant] == (f"another {document(topic)}" if topic % 2 else document(topic))
        assert (relevant == f"t{topic}") == (topic % 2 == 0)
    assert found.added == TOPICS // 2
    assert len(found.corpus) == TOPICS + TOPICS // 2
    weights = {one.weight(name) for one in found.dataset.train for name in one.targets}
    assert weights == ({2.0} if form == P else {1.0})


def test_i9_what_is_brought_is_split_by_query(trainer: Trainer) -> None:
    brought(trainer, one=J, two=T)
    found = collected(trainer, asked(trainer, "one", "two"))
    parts = [
        {judged.query for judged in part}
        for part in (found.dataset.train, found.dataset.validation, found.dataset.held_out)
    ]
    assert sum(map(len, parts)) == len(ASKED) == len(set.union(*parts))
    assert all(len(part) > 10 for part in parts)


def test_a_text_that_the_collection_has_is_its_document(trainer: Trainer) -> None:
    known = [pb.DatasetRow(pair=pb.PairRow(query=query(i, 0), positive=text(f"{document(i)} "))) for i in range(TOPICS)]
    trainer.client.upload_dataset("known", P, known)
    found = collected(trainer, asked(trainer, "known"))
    assert found.added == 0
    assert {name for said in targets(found).values() for name in said} == {f"t{i}" for i in range(TOPICS)}


def test_i9_white_space_does_not_make_another_query(trainer: Trainer) -> None:
    trainer.peers.feedback = [Judgment(query(topic, wording), f"t{topic}", 1.0, 1.0) for topic, wording in ASKED]
    spaced = [
        pb.DatasetRow(pair=pb.PairRow(query=f" {query(*one).replace(' ', '  ')}", positive=pb.Passage(id="t0")))
        for one in ASKED
    ]
    trainer.client.upload_dataset("spaced", P, spaced)
    found = collected(trainer, asked(trainer, "spaced", without_feedback=False), trainer.peers.feedback)
    assert targets(found).keys() == {query(*one) for one in ASKED}
    assert targets(found)[query(3, 1)] == {"t3": 1.0, "t0": 1.0}


def test_what_is_brought_has_the_last_word_over_feedback(trainer: Trainer) -> None:
    trainer.peers.feedback = [
        Judgment(query(0, 0), "t0", 0.0, 1.0),  # brought with 1
        Judgment(query(1, 7), "t1", 1.0, 1.0),  # said by feedback alone
        Judgment("of a deleted document", "gone", 1.0, 1.0),
    ]
    brought(trainer, mine=J)
    both = collected(trainer, asked(trainer, "mine", without_feedback=False), trainer.peers.feedback)
    assert trainer.peers.asked_for_feedback
    assert targets(both)[query(0, 0)]["t0"] == 1.0
    assert query(1, 7) in targets(both)
    assert "of a deleted document" not in targets(both)


def test_documents_that_are_not_there_are_counted_and_named_if_too_little_is_left(trainer: Trainer) -> None:
    unknown = [pb.DatasetRow(pair=pb.PairRow(query=f"q{i}", positive=pb.Passage(id=f"no{i}"))) for i in range(12)]
    trainer.client.upload_dataset("unknown", P, unknown)
    run = asked(trainer, "unknown")
    with pytest.raises(TooLittle, match=r"no documents 'no0', .* 'no4' and 7 more, which 12 judgments name"):
        collected(trainer, run)
    trainer.store.jobs.request_stop(RunRow, run.id)
    brought(trainer, good=P)
    found = collected(trainer, asked(trainer, "unknown", "good"))
    assert (found.brought.unknown_judgments, len(targets(found))) == (12, len(ASKED))


def test_a_class_asks_for_its_texts_and_what_is_held_out_is_no_document(trainer: Trainer) -> None:
    brought(trainer, topics=C)
    # A text of a class that the collection has must not count as a wrong answer.
    trainer.peers.documents["same"] = query(8, 1)
    found = collected(trainer, asked(trainer, "topics"))
    split = found.dataset
    documents = {found.corpus[name] for one in split.held_out for name in one.targets}
    asking = {one.query for one in (*split.held_out, *split.validation)}
    assert asking
    assert not asking & set(found.corpus.values())
    assert documents <= {one.query for one in split.train}
    labels = {query(topic, wording): f"class {topic % 8}" for topic, wording in ASKED}
    for one in (*split.train, *split.validation, *split.held_out):
        assert one.label == labels[one.query]
        assert 0 < len(one.targets) <= 10
        assert all(labels[found.corpus[name]] == one.label for name in one.targets)
        assert one.query not in {found.corpus[name] for name in one.targets}
    assert found.added + TOPICS == len(found.corpus) - ("same" in found.corpus)


def test_one_text_in_two_classes_of_two_datasets_is_refused(trainer: Trainer) -> None:
    brought(trainer, topics=C)
    other = [pb.DatasetRow(labelled=pb.ClassRow(text=f"text {i}", label="ab"[i % 2])) for i in range(12)]
    other.append(pb.DatasetRow(labelled=pb.ClassRow(text=query(0, 0), label="a")))
    trainer.client.upload_dataset("other", C, other)
    run = trainer.execute(asked(trainer, "topics", "other").id)
    assert (run.state, "is of class 'class 0' in one dataset and 'a' in another" in run.message) == ("failed", True)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (lambda t: asked(t, "guard"), "'guard' is an evaluation|is an evaluation, which is never trained on"),
        (lambda t: asked(t), "without feedback there is nothing to train on; name a dataset"),
        (lambda t: asked(t, "topics", without_feedback=False), r"not with feedback: .*; given: 'topics' \(classes\)"),
        (lambda t: asked(t, "topics", "mine"), r"not with other forms; given: 'topics' .*, 'mine' \(pairs\)"),
        (lambda t: asked(t, "mine", recipe="class-triplets"), r"needs datasets of the form classes; given: 'mine'"),
        (lambda t: asked(t, "topics", recipe="cosent"), "the recipe cosent reads queries with documents"),
        (lambda t: asked(t, "mine", guard="mine"), "the guard 'mine' is of the form pairs; it must be an evaluation"),
        (lambda t: asked(t, without_feedback=False), "0 queries with a liked document"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(
    trainer: Trainer, wish: Callable[[Trainer], RunRow], said: str
) -> None:
    brought(trainer, mine=P, topics=C, guard=E)
    with pytest.raises(FailedPrecondition, match=said):
        wish(trainer)
    with pytest.raises(NotFound, match="there is no dataset 'none'"):
        asked(trainer, "none")
    with pytest.raises(NotFound, match="there is no dataset 'none'"):
        asked(trainer, "mine", guard="none")


def test_classes_teach_no_reranker(trainer: Trainer) -> None:
    brought(trainer, topics=C)
    with_judges(trainer.store)
    with pytest.raises(FailedPrecondition, match="has texts with classes, which teach an encoder"):
        trainer.client.train("films", datasets=["topics"], without_feedback=True, reranker="judge")


def test_i10_a_run_reads_so_many_datasets_at_most(trainer: Trainer) -> None:
    with pytest.raises(InvalidArgument, match="datasets: has 51 names; the most is 50"):
        asked(trainer, *(f"d{i}" for i in range(51)))


def test_a_guard_margin_that_can_not_be_is_refused(trainer: Trainer) -> None:
    with pytest.raises(InvalidArgument, match=r"gate\.guard_margin: is 1\.5"):
        trainer.client.train("films", CONFIG, training.GatePolicy(guard_margin=1.5))


def test_a_run_whose_dataset_was_replaced_meanwhile_says_so(trainer: Trainer) -> None:
    brought(trainer, mine=P)
    run = asked(trainer, "mine")
    trainer.client.upload_dataset("mine", P, rows(P)[:20], replace=True)
    ended = trainer.execute(run.id)
    assert (ended.state, ended.message) == (
        "failed",
        "dataset 'mine' was deleted or replaced after this run was asked for; start it again",
    )


@pytest.fixture
def tuned(trainer: Trainer, tiny: Tiny) -> Trainer:
    """The trainer, with a tiny model that serves."""
    published = publish(trainer.folder / "objects", tiny.candidate, 1)
    trainer.store.jobs.register("other", published.kind, "somewhere", {})
    real = replace(published, model="other", number=1)
    trainer.store.registry.publish(real, "import")
    trainer.peers.serving = real
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(("form", "recipe"), [(T, "multiple-negatives"), (C, "class-triplets")])
def test_a_run_on_a_dataset_alone_trains_and_is_judged(
    tuned: Trainer, form: pb.DatasetForm.ValueType, recipe: str
) -> None:
    brought(tuned, mine=form, set_aside=E)
    run = asked(tuned, "mine", guard="set_aside", dimensions=[16])
    ended = tuned.execute(run.id)
    assert ended.state == "succeeded", ended.message
    assert not tuned.peers.asked_for_feedback
    details = json.loads(bytes(tuned.objects.get(f"runs/{run.id}/details.json").bytes()))
    assert details["config"]["recipe"] == recipe
    assert details["training"]
    assert b"uploaded datasets<td>mine" in tuned.client.report(run.id).content
    shown = tuned.client.run(run.id)
    assert list(shown.data.datasets) == ["mine"]
    assert shown.data.held_out_queries >= 10
    assert {metric.dimensions for metric in shown.gate.metrics} == {32, 16}


@pytest.mark.slow
def test_i6_a_loss_that_is_no_number_fails_the_run_and_changes_nothing(tuned: Trainer) -> None:
    brought(tuned, mine=P)
    wanted = asked(tuned, "mine").request
    tuned.store.jobs.request_stop(RunRow, tuned.store.jobs.runs(1)[0].id)
    # More than a caller may ask for, so that it is certain.
    wanted["config"] |= {"learning_rate": 1e38}
    run = tuned.store.jobs.add_run("films", "other", tuned.peers.serving.digest, wanted)
    versions = tuned.store.registry.versions("other")
    ended = tuned.execute(run.id)
    assert ended.state == "failed"
    assert ended.message.endswith("lower the learning rate")
    assert ended.published_digest == ended.rollout_id == ""
    assert [row.digest for row, _ in tuned.store.registry.versions("other")] == [row.digest for row, _ in versions]
    assert [version.digest for version in tuned.store.registry.desired()] == [OLD.digest, tuned.peers.serving.digest]
    # And the collection takes the next one.
    tuned.store.jobs.add_run("films", "other", tuned.peers.serving.digest, wanted)


def test_a_guard_is_brought_into_the_folder_of_the_run(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "clear", lambda self: None)
    brought(trainer, mine=P, set_aside=E)
    run = asked(trainer, "mine", guard="set_aside")
    assert run.request["gate"]["guard"] == "set_aside"
    assert run.request["gate"]["guard_margin"] == 0.01
    # The version that serves has no artifact here, so that the run fails once all is collected.
    assert trainer.execute(run.id).state == "failed"
    folder = trainer.folder / "work" / "runs" / run.id
    judged = {one["query"]: one["targets"] for one in read_lines(folder / files.GUARD)}
    assert judged == {query(topic, wording): {f"e{topic}": 1.0} for topic, wording in ASKED}
    corpus = {one["id"]: one["text"] for one in read_lines(folder / files.GUARD_CORPUS)}
    assert corpus == {f"e{topic}": document(topic) for topic in range(TOPICS)}
    texts = {one["id"] for one in read_lines(folder / files.CORPUS)}
    assert not texts & corpus.keys()


def test_the_command_asks_for_datasets(trainer: Trainer, command: Command) -> None:
    brought(trainer, mine=P, set_aside=E)
    options = ["--dataset", "mine", "--without-feedback", "--guard", "set_aside", "--guard-margin", "0.02", "--dry-run"]
    code, out, err = command("train", "-c", "films", *options, "--no-wait", "--json")
    assert code == 0, err
    request = trainer.store.jobs.get(RunRow, json.loads(out)["run"]["id"]).request
    assert [one["name"] for one in request["datasets"]] == ["mine"]
    assert (request["without_feedback"], request["guard"]["name"]) == (True, "set_aside")
    assert request["gate"]["guard_margin"] == 0.02
