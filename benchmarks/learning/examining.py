"""Scoring a model on a test split, which nothing else in this benchmark reads.

Called when a training has ended: what is learned here can change no training.
"""

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.learning import lessons
from diapason import vectors
from diapason.evaluation import beir, metrics
from services.search.adapters.edge import EdgeEngine
from services.search.adapters.words import Words
from services.search.domain.model import Bm25, Index, IndexState, Settings, Version
from services.search.ports import Point, Query
from services.trainer.process import loading
from services.trainer.process.encoding import Encoder

TEST = "test"
_ROWS = 500
_METRIC = metrics.DECIDING


@dataclass(frozen=True)
class Marks:
    """nDCG@10 of each test query, in the order of their file: by meaning at each size, with words at the full one."""

    dense: Mapping[int, Sequence[float]]
    hybrid: Sequence[float]

    @property
    def full(self) -> int:
        """The greatest size."""
        return max(self.dense)

    @property
    def mean_hybrid(self) -> float:
        """With words."""
        return float(np.mean(self.hybrid))

    def mean(self, size: int = 0) -> float:
        """At a size; 0 is the full one."""
        return float(np.mean(self.dense[size or self.full]))

    def kept(self, size: int) -> float:
        """The share of the full size's score that a size has."""
        return self.mean(size) / self.mean() if self.mean() else 0.0


def examine(weights: Path, source: Path, sizes: Sequence[int], kept: Path) -> Marks:
    """Score the model of a folder of weights on the test split of ``source``; once, then as kept."""
    if not kept.exists():
        marks = asyncio.run(_examine(weights, source, sizes))
        content = {"dense": {str(size): list(of) for size, of in marks.dense.items()}, "hybrid": list(marks.hybrid)}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(content))
    said = json.loads(kept.read_text())
    return Marks({int(size): of for size, of in said["dense"].items()}, said["hybrid"])


def read(source: Path, split: str) -> tuple[beir.Dataset, list[str], list[str]]:
    """A split, with the ids and the texts of all documents."""
    dataset = beir.read(source, split)
    entries = list(dataset.entries())
    return dataset, [entry.id for entry in entries], [lessons.text(entry) for entry in entries]


async def _examine(weights: Path, source: Path, sizes: Sequence[int]) -> Marks:
    dataset, names, texts = read(source, TEST)
    asked = list(dataset.queries.values())
    encode = Encoder(loading.load(str(weights)))
    queries, documents = encode(asked, "query"), encode(texts, "document")
    grades = [dataset.judgments[name] for name in dataset.queries]
    dense = {
        size: [scored_list(row, one) for row, one in zip(_ranked(queries, documents, names, size), grades, strict=True)]
        for size in sorted({documents.shape[1], *sizes}, reverse=True)
    }
    hybrid = await _hybrid(queries, documents, names, texts, asked)
    return Marks(dense, [scored_list(row, one) for row, one in zip(hybrid, grades, strict=True)])


def scored_list(ranked: Sequence[str], grades: Mapping[str, int]) -> float:
    """The deciding metric of one query's documents, best first."""
    return metrics.METRICS[_METRIC](ranked, grades)


def _ranked(queries: vectors.Matrix, documents: vectors.Matrix, names: Sequence[str], size: int) -> list[list[str]]:
    """The nearest documents, every one compared."""
    similarity = vectors.truncated(queries, size) @ vectors.truncated(documents, size).T
    found = []
    for row in similarity:
        best = np.argsort(-row, kind="stable")[: metrics.DEPTH]
        found.append(metrics.by_score({names[i]: float(row[i]) for i in best}))
    return found


async def _hybrid(
    queries: vectors.Matrix,
    documents: vectors.Matrix,
    names: Sequence[str],
    texts: Sequence[str],
    asked: Sequence[str],
) -> list[list[str]]:
    """The same by search's own engine: with BM25, and fused by the distribution of scores."""
    settings = Settings(bm25=Bm25())
    words = Words(Bm25())
    with tempfile.TemporaryDirectory() as folder:
        engine = EdgeEngine(Path(folder))
        version = Version("examined", 1, "")
        index = await engine.create(
            Index("test", "test", version, documents.shape[1], settings, IndexState.BUILDING, 0)
        )
        for start in range(0, len(names), _ROWS):
            part = slice(start, start + _ROWS)
            points = [
                Point(name, 1 + start + i, name, 0, 1, {}, words=sparse)
                for i, (name, sparse) in enumerate(zip(names[part], words.documents(texts[part]), strict=True))
            ]
            await index.upsert(points, documents[part])
        asking = [
            Query(metrics.DEPTH, vector[None], words.query(text), exact=True)
            for vector, text in zip(queries, asked, strict=True)
        ]
        found = [hits for query in asking for hits in await index.query([query])]
        await index.close()
        await engine.close()
    return [metrics.by_score({hit.document_id: hit.score for hit in hits}) for hits in found]
