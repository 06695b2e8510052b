"""What a reranker is trained on: which recipe fits, how long, and rows of pairs or of lists.

A row names documents by id. What was not judged is drawn from ``mined``: for each query documents that its encoder
brings among the first but that were not judged.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.trainer.domain.data import Judged
from services.trainer.domain.examples import Mined, Row
from services.trainer.domain.recipes import AUTO, graded

NAMES = (AUTO, "bce", "ranknet", "lambda")
# A list is one example, however many documents it has: below so many queries they are few, pairs are more.
_LISTS = 100
# EduRanker's experience with cross-encoders: below 100 examples two to three epochs at 5e-5, above 500 more at 2e-5.
# In between the best epoch is chosen by validation queries as everywhere, so two steps are enough.
_MANY = 500
# Documents of one list. All of them are in memory at once, each beside the query.
MOST_LISTED = 16


@dataclass(frozen=True)
class Listed:
    """A query with documents of different targets, and their ``labels``."""

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]
    weight: float


def choose(judged: Sequence[Judged]) -> str:
    """Grades of many queries are an order to be learned whole; thumbs, or grades of few, pair by pair."""
    listed = sum(len(set(one.targets.values())) > 1 for one in judged)
    return "lambda" if listed >= _LISTS and graded(judged) else "bce"


def schedule(examples: int) -> tuple[int, float]:
    """Epochs at most, and learning rate, for so many pairs of query and document."""
    return (3, 5e-5) if examples < _MANY else (4, 2e-5)


def drawn(judged: Sequence[Judged], mined: Mined, negatives: int, seed: int) -> Mapping[str, list[str]]:
    """For each query with something relevant so many documents for each relevant one, none of them judged.

    Drawn by chance from the encoder's first, rather than the hardest alone: what is to be put in order later are all
    of them (Gao, Dai and Callan, Rethink training of BERT rerankers, 2021, arXiv:2101.08751).
    """
    found = {}
    for one in judged:
        others = [name for name in mined.get(one.query, ()) if name not in one.targets]
        wanted = min(len(others), negatives * len(one.relevant))
        found[one.query] = random.Random(f"{seed} {one.query}").sample(others, wanted)  # noqa: S311
    return found


def pairs(judged: Sequence[Judged], unjudged: Mined) -> list[Row]:
    """A row for each pair, with a label from 0 to 1; what is below 0 under some policies is 0."""
    return [
        Row(one.query, (name,), one.weight(name), min(1.0, max(0.0, target)))
        for one in judged
        for name, target in _targets(one, unjudged).items()
    ]


def lists(judged: Sequence[Judged], unjudged: Mined) -> list[Listed]:
    """A row for each query, or several where it has many documents, each with all grades among its documents.

    Documents of one target alone have no order and give no row.
    """
    found = []
    for one in judged:
        targets = _targets(one, unjudged)
        names = sorted(targets, key=lambda name: -targets[name])
        parts = -(-len(names) // MOST_LISTED)
        for part in (names[i::parts] for i in range(parts)):
            labels = tuple(targets[name] for name in part)
            if len(set(labels)) > 1:
                weight = sum(one.weight(name) for name in part) / len(part)
                found.append(Listed(one.query, tuple(part), labels, weight))
    return found


def _targets(one: Judged, unjudged: Mined) -> dict[str, float]:
    return {**one.targets, **dict.fromkeys(unjudged.get(one.query, ()), 0.0)}
