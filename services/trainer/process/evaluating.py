"""Scoring an encoder on the held-out queries, against the whole corpus, exactly."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from diapason import vectors
from services.trainer.domain.metrics import DEPTH, METRICS
from services.trainer.process.spec import CORPUS, HELD_OUT
from services.trainer.process.training import read_lines

_CHUNK = 256

# {dimensions: {metric: one score per held-out query}}
Scores = dict[int, dict[str, list[float]]]


def evaluate(
    model: SentenceTransformer, dimensions: list[int], folder: Path, progress: Callable[[float], None]
) -> Scores:
    """Scores at the full size and at each of ``dimensions``, for the queries in the file's order."""
    corpus = read_lines(folder / CORPUS)
    held_out: dict[str, dict[str, float]] = json.loads((folder / HELD_OUT).read_text())
    ids = [document["id"] for document in corpus]
    rows = []
    for start in range(0, len(corpus), _CHUNK):
        texts = [document["text"] for document in corpus[start : start + _CHUNK]]
        rows.append(_encode(model, texts, "document"))
        progress(min(1.0, (start + _CHUNK) / len(corpus)))
    documents = np.concatenate(rows)
    queries = _encode(model, list(held_out), "query") if held_out else np.empty((0, documents.shape[1]), np.float32)
    scores: Scores = {}
    for size in (documents.shape[1], *dimensions):
        similarity = vectors.truncated(queries, size) @ vectors.truncated(documents, size).T
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :DEPTH]
        ranked = [[ids[column] for column in row] for row in best]
        scores[size] = {
            name: [metric(row, relevant) for row, relevant in zip(ranked, held_out.values(), strict=True)]
            for name, metric in METRICS.items()
        }
    return scores


def _encode(model: SentenceTransformer, texts: list[str], role: str) -> vectors.Matrix:
    encoded = model.encode(
        texts,
        prompt=model.prompts.get(role) or None,
        batch_size=32,
        normalize_embeddings=True,
        show_progress_bar=False,
    )
    return np.asarray(encoded, np.float32)
