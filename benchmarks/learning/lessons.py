"""From a folder in BEIR's layout to the folder of a run, without a glance at what it will be tested on.

A lesson is a folder that has the corpus, the judgments of the train split, and the queries of those judgments; nothing
else is given to what prepares and trains. The test split stays behind, in a folder that only `scoring` is told of.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from diapason.evaluation import beir
from services.trainer.domain import data
from services.trainer.domain.data import Judged, Judgment
from services.trainer.domain.gate import GatePolicy
from services.trainer.domain.model import TrainingConfig
from services.trainer.process import spec as files

TRAIN = "train"
# Of a guard set: enough for half of them to steer and the others to judge.
GUARD_QUERIES = 500


def take(source: Path, to: Path) -> Path:
    """Copy what may be learned from: corpus, train judgments, and only the queries that they are of."""
    (to / beir.QRELS).mkdir(parents=True)
    shutil.copy(source / beir.CORPUS, to)
    judgments = (source / beir.QRELS / f"{TRAIN}.tsv").read_text(encoding="utf-8")
    (to / beir.QRELS / f"{TRAIN}.tsv").write_text(judgments, encoding="utf-8")
    wanted = {line.split("\t")[0] for line in judgments.splitlines()[1:]}
    with (source / beir.QUERIES).open(encoding="utf-8") as lines:
        kept = [line for line in lines if json.loads(line)["_id"] in wanted]
    (to / beir.QUERIES).write_text("".join(kept), encoding="utf-8")
    return to


@dataclass(frozen=True)
class Sample:
    """Which judgments are learned from: the first ``judgments`` of a shuffled order (0: all), so many of them wrong.

    ``flipped`` is the share of thumbs that are the wrong way round: the relevant document is down, and one drawn from
    the whole corpus is up.
    """

    judgments: int = 0
    flipped: float = 0.0
    seed: int = 17


def thumbs(lesson: Path, sample: Sample) -> list[Judgment]:
    """The train judgments as thumbs up, and where they are flipped as a thumb down and a wrong one up."""
    dataset = beir.read(lesson, TRAIN)
    liked = [
        Judgment(dataset.queries[query], document, 1.0, 1.0)
        for query, grades in dataset.judgments.items()
        for document, grade in sorted(grades.items())
        if grade > 0 and document in dataset.document_ids
    ]
    chance = random.Random(sample.seed)  # noqa: S311
    chance.shuffle(liked)
    # The first of each query before the second of any, so that few judgments are of as many queries.
    seen: Counter[str] = Counter()
    turns = []
    for judgment in liked:
        turns.append(seen[judgment.query])
        seen[judgment.query] += 1
    chosen = [liked[i] for i in sorted(range(len(liked)), key=turns.__getitem__)][: sample.judgments or None]
    documents = sorted(dataset.document_ids)
    wrong = set(chance.sample(range(len(chosen)), round(sample.flipped * len(chosen))))
    found = []
    for place, judgment in enumerate(chosen):
        if place in wrong:
            found += [replace(judgment, document_id=chance.choice(documents)), replace(judgment, target=0.0)]
        else:
            found.append(judgment)
    return _one_opinion(found)


def guard(lesson: Path, name: str, folder: Path) -> None:
    """What must not be forgotten, into the folder of a run on something else: queries of a lesson, and its documents.

    All of them, though a run reads them several times: over 2,000 of MedQuAD's a fall of 0.025 looked like 0.004.
    """
    dataset = beir.read(lesson, TRAIN)
    chance = random.Random(0)  # noqa: S311
    asked = sorted(name for name, grades in dataset.judgments.items() if grades.keys() & dataset.document_ids)
    chosen = chance.sample(asked, min(GUARD_QUERIES, len(asked)))
    said: dict[str, dict[str, float]] = {}
    for query in chosen:
        grades = {document: float(grade) for document, grade in dataset.judgments[query].items()}
        said.setdefault(dataset.queries[query], {}).update(grades)
    judged = [Judged(text, grades) for text, grades in said.items()]
    texts = [{"id": entry.id, "text": text(entry)} for entry in dataset.entries()]
    files.write_lines(folder / files.GUARD_CORPUS, texts)
    files.write_lines(folder / files.GUARD, [asdict(one) for one in judged])
    replace(files.Spec.read(folder), guard=name, guard_margin=GatePolicy.guard_margin).write(folder)


def text(entry: beir.Entry) -> str:
    """A document as it is indexed."""
    return f"{entry.title}\n{entry.text}" if entry.title else entry.text


def _one_opinion(judgments: Sequence[Judgment]) -> list[Judgment]:
    """Of one query and document the last word, as an export has it."""
    return list({(one.query, one.document_id): one for one in judgments}.values())


def prepare(lesson: Path, sample: Sample, config: TrainingConfig, base: Path, folder: Path) -> data.Dataset:
    """What a worker leaves in a run's folder before it starts the job. ``base`` is a folder of weights."""
    folder.mkdir(parents=True)
    judgments = thumbs(lesson, sample)
    dataset = data.prepare(judgments, config.held_out)
    corpus = [{"id": entry.id, "text": text(entry)} for entry in beir.read(lesson, TRAIN).entries()]
    files.write_lines(folder / files.CORPUS, corpus)
    for name, some in (
        (files.TRAIN, dataset.train),
        (files.VALIDATION, dataset.validation),
        (files.HELD_OUT, dataset.held_out),
    ):
        files.write_lines(folder / name, [asdict(one) for one in some])
    files.write_json(folder / files.POLICY, {"name": "thumbs", "judgments": dataset.positives})
    files.Spec(
        kind="fine-tune",
        base=str(base),
        current=str(base),
        dimensions=list(config.dimensions),
        recipe=config.recipe,
        negatives=config.negatives,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
    ).write(folder)
    return dataset
