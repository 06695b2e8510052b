"""From judgments to what is trained on and what is held out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# From here on a judgment's target counts as relevant.
RELEVANT = 0.5
# EduRanker's experience: below ten examples there is nothing to learn from.
MIN_QUERIES = 10


@dataclass(frozen=True)
class Judgment:
    """One query, one document, and how relevant it is (0 to 1)."""

    query: str
    document_id: str
    target: float
    weight: float


@dataclass(frozen=True)
class Example:
    """A query with one relevant document and those that were judged not to be, worst known first."""

    query: str
    positive: str
    negatives: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """Examples to train on, and held-out queries with their relevant documents and gains."""

    examples: tuple[Example, ...]
    held_out: Mapping[str, Mapping[str, float]]
    judgments: int
    positives: int
    train_queries: int


def is_held_out(query: str, share: float) -> bool:
    """Whether a query belongs to the gate.

    Depends on the query alone, so that it never changes sides: neither as judgments are added nor
    with another seed. With a larger share queries only join the held-out ones.
    """
    digest = hashlib.sha256(f"diapason gate\0{query}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def trainable_queries(judgments: Sequence[Judgment]) -> int:
    """Distinct queries with at least one relevant document."""
    return len({j.query for j in judgments if j.target >= RELEVANT})


def prepare(judgments: Sequence[Judgment], share: float) -> Dataset:
    """Split by query, never by row (I9); pair every relevant document with the refused ones."""
    by_query: dict[str, list[Judgment]] = {}
    for judgment in sorted(judgments, key=lambda j: (j.query, j.document_id)):
        by_query.setdefault(judgment.query, []).append(judgment)
    examples: list[Example] = []
    held_out: dict[str, dict[str, float]] = {}
    train_queries = 0
    for query, judged in by_query.items():
        relevant = {j.document_id: j.target for j in judged if j.target >= RELEVANT}
        if not relevant:
            continue
        if is_held_out(query, share):
            held_out[query] = relevant
            continue
        train_queries += 1
        refused = tuple(j.document_id for j in sorted(judged, key=lambda j: j.target) if j.target < RELEVANT)
        examples += [Example(query, document_id, refused) for document_id in relevant]
    return Dataset(
        tuple(examples),
        held_out,
        judgments=len(judgments),
        positives=sum(j.target >= RELEVANT for j in judgments),
        train_queries=train_queries,
    )
