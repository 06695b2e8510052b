"""Against forgetting: while it learns from judgments, a model keeps the vectors of the collection's sentences.

Learning without forgetting, Li and Hoiem, 2016 (arXiv:1606.09282), with vectors in place of classes. Titles and
sentences are short: they cost a fraction of what the documents of a batch do.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch.nn import Module

from diapason.vectors import Matrix
from services.trainer.process.encoding import encoder

# Documents that a title and a sentence each are taken from.
_DOCUMENTS = 5_000
_CHARACTERS = 300
# Sentences beside each batch, and what their distance from the base counts (1 - cosine, the mean of them).
_TOGETHER, WEIGHT = 32, 10.0
_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Remembered:
    """Texts, and their vectors (rows, of unit length) before training."""

    texts: list[str]
    vectors: Matrix


def remembered(model: SentenceTransformer, texts: Sequence[str], seed: int) -> Remembered:
    """Of each document, or of a sample of them, the first line and one sentence of the rest, as the model sees them."""
    chance = random.Random(seed)  # noqa: S311
    short: dict[str, None] = {}
    for text in chance.sample(texts, min(_DOCUMENTS, len(texts))):
        first, _, rest = text.partition("\n")
        some = [part for part in _END.split(rest) if part.strip()]
        short |= dict.fromkeys(part[:_CHARACTERS] for part in (first, *chance.sample(some, min(1, len(some)))))
    chosen = [text for text in short if text.strip()]
    if not chosen:
        return Remembered([], np.zeros((0, 0), np.float32))
    # Neither queries nor documents: no prompt stands before them.
    return Remembered(chosen, encoder(model, len(chosen))(chosen, "sentence"))


class Keeping(Module):
    """A loss of sentence-transformers, and how far sentences drawn by chance have moved since before training."""

    def __init__(self, loss: Module, model: SentenceTransformer, known: Remembered, weight: float = WEIGHT) -> None:
        super().__init__()
        self.loss, self.model, self._weight = loss, model, weight
        self._texts, self._vectors = known.texts, torch.from_numpy(known.vectors)

    def forward(self, features: Any, labels: Any) -> torch.Tensor:
        """As the inner loss takes them."""
        learned: torch.Tensor = self.loss(features, labels)
        # By torch's generator, whose state a checkpoint keeps.
        drawn = torch.randint(len(self._texts), (min(_TOGETHER, len(self._texts)),))
        texts = self.model.preprocess([self._texts[i] for i in drawn])
        device = self.model.device
        moved = self.model({name: value.to(device) for name, value in texts.items() if torch.is_tensor(value)})
        cosines = torch.nn.functional.cosine_similarity(
            moved["sentence_embedding"].float(), self._vectors[drawn].to(device)
        )
        return learned + self._weight * (1 - cosines.mean())
