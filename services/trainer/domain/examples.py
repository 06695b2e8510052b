"""From judged queries to the rows that a loss reads. A row names documents by id.

What was not judged is taken from ``mined``: for each query documents that look relevant to the model but were
not judged so, hardest first.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import cycle, islice
from typing import Protocol, TypeVar

from services.trainer.domain.data import RELEVANT, Judged

Mined = Mapping[str, Sequence[str]]
# However much more one row counts than the others, it is not repeated more often than this.
_MOST_COPIES = 10


class Form(Enum):
    """What the rows of a loss are like."""

    RANKED = "a query, a relevant document, and documents that are not relevant"
    TRIPLETS = "a query, a relevant document, and one that is not"
    SCORED = "a query, a document, and a target"
    LABELLED = "a query, a document, and 1 or 0"
    CLASSES = "a text, and its class"


@dataclass(frozen=True)
class Row:
    """A query with documents; ``label`` where the form has one."""

    query: str
    documents: tuple[str, ...]
    weight: float
    label: float | None = None


class Weighted(Protocol):
    """Any row that counts more or less than others."""

    @property
    def weight(self) -> float:
        """How much it counts."""


AnyRow = TypeVar("AnyRow", bound=Weighted)


def rows(form: Form, judged: Sequence[Judged], mined: Mined, negatives: int, seed: int = 0) -> list[Row]:
    """The rows of a form, with so many documents that are not relevant beside each relevant one."""
    match form:
        case Form.RANKED:
            return _ranked(judged, mined, negatives, seed)
        case Form.TRIPLETS:
            ranked = _ranked(judged, mined, negatives, seed)
            return [Row(r.query, (r.documents[0], other), r.weight) for r in ranked for other in r.documents[1:]]
        case Form.SCORED | Form.LABELLED:
            found = []
            for one in judged:
                targets = {name: (t, one.weight(name)) for name, t in one.targets.items()}
                if not one.refused:  # what all agree on teaches nothing
                    others = mined.get(one.query, ())[: negatives * len(one.relevant)]
                    targets |= dict.fromkeys(others, (0.0, 1.0))
                for name, (target, weight) in targets.items():
                    label = float(target >= RELEVANT) if form is Form.LABELLED else target
                    found.append(Row(one.query, (name,), weight, label))
            return found
        case Form.CLASSES:
            classes = {name: number for number, name in enumerate(sorted({one.label for one in judged}))}
            return [Row(one.query, (), 1.0, classes[one.label]) for one in judged]


def _ranked(judged: Sequence[Judged], mined: Mined, negatives: int, seed: int) -> list[Row]:
    """As many documents in each, since a loss reads columns: where there are too few, they come again.

    What was refused comes first; where that counts less than the liking beside it, as much less often.
    """
    found = []
    chance = random.Random(seed)  # noqa: S311
    for one in judged:
        unjudged = [name for name in mined.get(one.query, ()) if name not in one.targets]
        for name in one.relevant:
            refused = [other for other in one.refused if chance.random() * one.weight(name) < one.weight(other)]
            others = [*refused, *unjudged]
            if others:
                found.append(Row(one.query, (name, *islice(cycle(others), negatives)), one.weight(name)))
    return found


def resampled(given: Sequence[AnyRow], seed: int) -> list[AnyRow]:
    """Rows as often as they count: of twice the mean weight twice, of a tenth of it one time in ten.

    The losses know no weights; the expected gradient is the same.
    """
    counted = [row for row in given if row.weight > 0]
    if not counted:
        return []
    mean = sum(row.weight for row in counted) / len(counted)
    chance = random.Random(seed)  # noqa: S311
    found: list[AnyRow] = []
    for row in counted:
        copies = min(_MOST_COPIES, row.weight / mean)
        whole = int(copies)
        found += [row] * (whole + (chance.random() < copies - whole))
    return found
