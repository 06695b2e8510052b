"""From judgments to what is trained on, what training is steered by, and what is held out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# From here on a judgment's target counts as relevant.
RELEVANT = 0.5
# EduRanker's experience: below ten examples there is nothing to learn from.
MIN_QUERIES = 10
# Of the queries that are not held out, so many steer training: when to stop, how much of it to keep.
VALIDATION_SHARE = 0.2
# With fewer of them than this they would steer by chance; all are trained on then.
MIN_VALIDATION = 15
# Of a guard set's queries, so many say how much of a training to keep; the others are the gate's.
GUARD_STEERING_SHARE = 0.5


@dataclass(frozen=True)
class Judgment:
    """One query, one document, how relevant it is (0 to 1, below that under some policies), what that counts."""

    query: str
    document_id: str
    target: float
    weight: float


@dataclass(frozen=True)
class Judged:
    """All that was said of one query's documents, by their ids. ``label`` is the class of a text that has one."""

    query: str
    targets: Mapping[str, float]
    weights: Mapping[str, float] = field(default_factory=dict)
    label: str = ""

    @property
    def relevant(self) -> dict[str, float]:
        """The documents that count as relevant, with their targets as gains."""
        return {name: target for name, target in self.targets.items() if target >= RELEVANT}

    @property
    def refused(self) -> list[str]:
        """The others, the least relevant first."""
        return sorted((name for name, t in self.targets.items() if t < RELEVANT), key=lambda name: self.targets[name])

    def weight(self, document_id: str) -> float:
        """How much a judgment counts; 1 where nothing was said."""
        return self.weights.get(document_id, 1.0)


@dataclass(frozen=True)
class Dataset:
    """Queries to train on, queries to steer by, and queries held out for the gate."""

    train: tuple[Judged, ...]
    validation: tuple[Judged, ...]
    held_out: tuple[Judged, ...]
    judgments: int
    positives: int

    @property
    def train_queries(self) -> int:
        """Queries to train on that have a relevant document."""
        return sum(bool(judged.relevant) for judged in self.train)


def is_held_out(query: str, share: float) -> bool:
    """Whether a query belongs to the gate.

    Depends on the query alone, so that it never changes sides: neither as judgments are added nor with another seed.
    Capitals do not matter, since most models read none: what is one query to them is on one side. With a larger share
    queries only join the held-out ones.
    """
    return _place(query, "gate") < share


def is_steering(query: str) -> bool:
    """Whether a query that is not held out steers training, if enough of them do."""
    return _place(query, "validation") < VALIDATION_SHARE


def parted_guard(judged: Sequence[Judged]) -> tuple[list[Judged], list[Judged]]:
    """Of a guard set's queries those that steer, none if they would be too few, and those that are the gate's."""
    steering = [one for one in judged if _place(one.query, "guard") < GUARD_STEERING_SHARE]
    judging = [one for one in judged if _place(one.query, "guard") >= GUARD_STEERING_SHARE]
    return (steering, judging) if min(len(steering), len(judging)) >= MIN_VALIDATION else ([], list(judged))


def trainable_queries(judgments: Sequence[Judgment]) -> int:
    """Distinct queries with at least one relevant document."""
    return len({j.query for j in judgments if j.target >= RELEVANT})


def prepare(judgments: Sequence[Judgment], share: float) -> Dataset:
    """Split by query, never by row (I9). ``share`` of the queries is held out for the gate."""
    by_query: dict[str, list[Judgment]] = {}
    for judgment in sorted(judgments, key=lambda j: (j.query, j.document_id)):
        by_query.setdefault(judgment.query, []).append(judgment)
    every = [
        Judged(query, {j.document_id: j.target for j in said}, {j.document_id: j.weight for j in said})
        for query, said in by_query.items()
    ]
    held_out = tuple(judged for judged in every if judged.relevant and is_held_out(judged.query, share))
    # What was only refused teaches, but can't be measured; of a held-out query it would tell too much.
    rest = [judged for judged in every if not is_held_out(judged.query, share)]
    steering = [j for j in rest if j.relevant and is_steering(j.query)]
    if len(steering) < MIN_VALIDATION:
        steering = []
    aside = {judged.query for judged in steering}
    return Dataset(
        tuple(judged for judged in rest if judged.query not in aside),
        tuple(steering),
        held_out,
        judgments=len(judgments),
        positives=sum(j.target >= RELEVANT for j in judgments),
    )


def _place(query: str, purpose: str) -> float:
    digest = hashlib.sha256(f"diapason {purpose}\0{query.casefold()}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
