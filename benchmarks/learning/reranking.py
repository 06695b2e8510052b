"""A reranker without pre-training: how it is made, and its marks on test queries over what an encoder brings first.

As with encoders, only what scores is told of the test split, and only when a training has ended.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.learning.examining import TEST, read, scored_list
from diapason.blending import blended
from services.trainer.domain.model import Kind
from services.trainer.process import loading, scoring
from services.trainer.process.encoding import Encoder
from services.trainer.process.firststage import DEPTH

_SEED = 17
# Each is as many pairs as a search reranks.
_QUERIES = 400


@dataclass(frozen=True)
class Reranked:
    """nDCG@10 of each query by the encoder, by the reranker alone, and by both as they would serve."""

    before: Sequence[float]
    alone: Sequence[float]
    after: Sequence[float]

    @property
    def gained(self) -> float:
        """On average, by what would serve."""
        return float(np.mean(self.after) - np.mean(self.before))


def headed(base: Path, folder: Path) -> Path:
    """A cross-encoder that has learned nothing yet of comparing two texts: an encoder's layers with a new head."""
    if not folder.exists():
        torch.manual_seed(_SEED)
        model = AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=1)
        AutoTokenizer.from_pretrained(str(base)).save_pretrained(str(folder))
        model.save_pretrained(str(folder))
    return folder


def examine(judge: Path, share: float, encoder: Path, source: Path, kept: Path) -> Reranked:
    """Score the reranker of a folder of weights over the encoder's first 50; once, then as kept."""
    if not kept.exists():
        found = _examine(judge, share, encoder, source)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(asdict(found)))
    return Reranked(**json.loads(kept.read_text()))


def _examine(judge: Path, share: float, encoder: Path, source: Path) -> Reranked:
    dataset, names, texts = read(source, TEST)
    every = sorted(dataset.queries)
    asked = random.Random(_SEED).sample(every, min(_QUERIES, len(every)))  # noqa: S311
    encode = Encoder(loading.load(str(encoder)))
    documents = encode(texts, "document")
    queries = encode([dataset.queries[name] for name in asked], "query")
    similarity = queries @ documents.T
    pools = np.argsort(-similarity, axis=1, kind="stable")[:, :DEPTH]
    pairs = [(dataset.queries[name], texts[i]) for name, pool in zip(asked, pools, strict=True) for i in pool]
    said = np.reshape(scoring.scores(loading.load(str(judge), Kind.RERANKER), pairs), pools.shape)
    orders: Mapping[str, list[float]] = {"before": [], "alone": [], "after": []}
    for name, pool, near, own in zip(asked, pools, similarity, said, strict=True):
        first, rerank = [float(near[i]) for i in pool], [float(score) for score in own]
        for when, scores in (("before", first), ("alone", rerank), ("after", blended(first, rerank, share))):
            ranked = [names[pool[i]] for i in np.argsort(-np.asarray(scores), kind="stable")]
            orders[when].append(scored_list(ranked, dataset.judgments[name]))
    return Reranked(**orders)
