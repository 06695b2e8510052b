"""Scores of pairs by a reranker, by the graph that would serve where there are many."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from services.trainer.process.encoding import Graph

# Pairs that are worth the seconds that it takes to make a graph.
_WORTH_A_GRAPH = 300

Asked = tuple[str, str]


def scores(
    model: CrossEncoder, pairs: Sequence[Asked], progress: Callable[[float], None] = lambda done: None
) -> list[float]:
    """One for each pair of query and text, on the model's own scale; higher is more relevant."""
    if len(pairs) >= _WORTH_A_GRAPH:
        found: list[float] = Graph(model).run(pairs, 1, progress)[:, 0].tolist()
        return found
    if not pairs:
        return []
    was_training, _ = model.training, model.eval()
    rows = model.predict(list(pairs), prompt="", show_progress_bar=False)
    model.train(was_training)
    return [float(score) for score in np.asarray(rows, np.float32).reshape(-1)]


def likely(model: CrossEncoder, found: Sequence[float]) -> list[float]:
    """Scores between 0 and 1: after the sigmoid, which many models have in them already."""
    given = torch.tensor(found, dtype=torch.float64)
    scaled = given if isinstance(model.activation_fn, torch.nn.Sigmoid) else torch.sigmoid(given)
    return [float(score) for score in scaled.clamp(0, 1)]
