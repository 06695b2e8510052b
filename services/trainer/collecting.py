"""What a run trains on and is measured by: feedback, what users brought, and the documents of both."""

from collections.abc import Sequence
from dataclasses import dataclass

from obstore.store import ObjectStore

from diapason.datasets.checking import plain
from services.trainer.brought import Brought, Wanted, rows_of
from services.trainer.domain import classes, data
from services.trainer.domain.data import Dataset, Judgment


class TooLittle(Exception):
    """There is not enough to train on; the message says what there is."""


@dataclass(frozen=True)
class Collected:
    """The split, all documents by their ids, what was brought, and how many documents it added."""

    dataset: Dataset
    corpus: dict[str, str]
    brought: Brought
    added: int


def collect(
    objects: ObjectStore, wanted: Wanted, feedback: Sequence[Judgment], corpus: dict[str, str], held_out: float
) -> Collected:
    """Put it together. ``corpus`` are the collection's documents. Raises ``TooLittle``, ``ServiceError``."""
    brought = Brought(corpus)
    for one in wanted.datasets:
        brought.take(rows_of(objects, one))
    return _classed(brought, held_out) if wanted.classes else _judged(brought, feedback, held_out)


def _judged(brought: Brought, feedback: Sequence[Judgment], held_out: float) -> Collected:
    # A document deleted since it was judged teaches nothing about those there are.
    there = {(j.query, j.document_id): j for j in feedback if j.document_id in brought.corpus}
    usable = list((there | brought.judgments).values())
    dataset = data.prepare(usable, held_out)
    queries = data.trainable_queries(usable)
    if queries < data.MIN_QUERIES or not dataset.train_queries:
        raise TooLittle(
            f"there are {queries} queries with a liked document that still exists (of {dataset.judgments} "
            f"judgments), {dataset.train_queries} of them to train on; {data.MIN_QUERIES} are needed"
            f"{brought.unknown_said()}"
        )
    return Collected(dataset, {**brought.corpus, **brought.texts}, brought, len(brought.texts))


def _classed(brought: Brought, held_out: float) -> Collected:
    made = classes.prepare(brought.labels, held_out, brought.name)
    if made.trained < 2:
        raise TooLittle(
            f"{made.trained} classes have two texts to train on, of {len(brought.labels)} texts; two such are needed: "
            "bring more, or hold out less"
        )
    # Texts that are no documents of their class would be right answers that count as wrong ones.
    others = {name: text for name, text in brought.corpus.items() if plain(text) not in brought.labels}
    corpus = others | dict(made.documents)
    return Collected(made.dataset, corpus, brought, len(made.documents.keys() - brought.corpus.keys()))
