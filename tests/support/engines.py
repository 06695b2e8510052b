"""Indexes with random documents, and what they should answer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diapason.vectors import Matrix
from services.search.domain.model import Bm25, Distance, Index, IndexState, Settings, Span, Version
from services.search.ports import Point, Query, Sparse

FULL, SMALL = 8, 4
VERSION = Version("tiny", 1, "digest")


def index(name: str = "one", dimension: int = FULL, **settings: Any) -> Index:
    """An index of 8 dimensions, usable at 4, that also knows words."""
    chosen = replace(Settings((SMALL,), bm25=Bm25()), **settings)
    return Index(name, "films", VERSION, dimension, chosen, IndexState.BUILDING, 0)


def vectors(rows: int, seed: int = 0, dimension: int = FULL) -> Matrix:
    """Random ones of different lengths."""
    return np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)


def point(document: str, sequence: int = 1, passage: int = 0, passages: int = 1, **fields: Any) -> Point:
    """A passage of 10 characters."""
    span = Span(10 * passage, 10 * passage + 10) if passages > 1 else None
    return Point(document, sequence, f"key of {document}", passage, passages, fields, span)


def split(document: str, passages: int, sequence: int = 1, **fields: Any) -> list[Point]:
    """All passages of a document, the first one last."""
    return [point(document, sequence, number, passages, **fields) for number in reversed(range(passages))]


def worded(points: Sequence[Point], seed: int = 1) -> list[Point]:
    """The same with one to three of five words each."""
    random = np.random.default_rng(seed)
    made = []
    for one in points:
        words = sorted(random.choice(5, size=int(random.integers(1, 4)), replace=False).tolist())
        weights = [float(np.float32(weight)) for weight in random.uniform(0.5, 2, len(words))]
        made.append(replace(one, words=Sparse(words, weights)))
    return made


def by_vector(row: Matrix, limit: int = 10, **more: Any) -> Query:
    """A query for what is near a vector (dimension,)."""
    return Query(limit, vector=row[None], **more)


def nearness(distance: Distance, row: Matrix, others: Matrix) -> Matrix:
    """How near each row is: higher is nearer."""
    if distance is Distance.EUCLID:
        near: Matrix = -np.linalg.norm(others - row, axis=1)
    elif distance is Distance.DOT:
        near = others @ row
    else:
        near = others @ row / np.linalg.norm(others, axis=1) / np.linalg.norm(row)
    return near


def word_scores(words: Sparse, points: Sequence[Point]) -> dict[str, float]:
    """BM25 with the rarity of each word over all points."""
    asked = dict(zip(words.indices, words.values, strict=True))
    held = {p.document_id: dict(zip(p.words.indices, p.words.values, strict=True)) for p in points if p.words}
    rarity = {word: _rarity(len(points), sum(word in weights for weights in held.values())) for word in asked}
    scores = {
        name: sum(asked[word] * weight * rarity[word] for word, weight in weights.items() if word in asked)
        for name, weights in held.items()
    }
    return {name: score for name, score in scores.items() if score}


def _rarity(points: int, containing: int) -> float:
    return float(np.log((points - containing + 0.5) / (containing + 0.5) + 1))


def reciprocal_ranks(lists: Sequence[Sequence[str]], constant: int = 60) -> Mapping[str, float]:
    """Fused scores (Cormack, Clarke and Buettcher, 2009)."""
    fused: dict[str, float] = {}
    for names in lists:
        for rank, name in enumerate(names, 1):
            fused[name] = fused.get(name, 0.0) + 1 / (constant + rank)
    return fused


def distribution_based(lists: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Fused scores: each list's on a scale of three standard deviations about its mean."""
    fused: dict[str, float] = {}
    for scores in lists:
        values = np.array([*scores.values()])
        low, width = values.mean() - 3 * values.std(ddof=1), 6 * values.std(ddof=1)
        for name, score in scores.items():
            fused[name] = fused.get(name, 0.0) + float((score - low) / width)
    return fused
