"""Ways to tune an encoder, by name: what rows the loss reads, and the loss."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLossDistanceFunction,
    CachedMultipleNegativesRankingLoss,
    ContrastiveLoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    OnlineContrastiveLoss,
    TripletDistanceMetric,
    TripletLoss,
)
from torch.nn import Module

from services.trainer.domain.data import Judged
from services.trainer.domain.examples import Form
from services.trainer.domain.recipes import AUTO, choose

# Texts whose activations are held at once by the loss that recomputes them.
_CHUNK = 16
# Cosine distance is 0 to 2; the loss's own default is meant for Euclidean distance.
_TRIPLET_MARGIN = 0.3


def _distances(vectors: torch.Tensor) -> torch.Tensor:
    """Between all of a batch, as if they were of unit length: that is how search will compare them.

    Euclidean and not cosine: near each other squares have no slope, and all vectors might fall into one (Hermans et
    al. 2017, section 2).
    """
    unit = torch.nn.functional.normalize(vectors)
    distances: torch.Tensor = BatchHardTripletLossDistanceFunction.euclidean_distance(unit)
    return distances


@dataclass(frozen=True)
class Recipe:
    """The form of the rows, and the loss over them."""

    form: Form
    loss: Callable[[SentenceTransformer], Module]


RECIPES: Mapping[str, Recipe] = {
    "multiple-negatives": Recipe(Form.RANKED, MultipleNegativesRankingLoss),
    "cached-multiple-negatives": Recipe(
        Form.RANKED, lambda model: CachedMultipleNegativesRankingLoss(model, mini_batch_size=_CHUNK)
    ),
    "triplet": Recipe(
        Form.TRIPLETS,
        lambda model: TripletLoss(model, distance_metric=TripletDistanceMetric.COSINE, triplet_margin=_TRIPLET_MARGIN),
    ),
    "cosine-similarity": Recipe(Form.SCORED, CosineSimilarityLoss),
    "cosent": Recipe(Form.SCORED, CoSENTLoss),
    "contrastive": Recipe(Form.LABELLED, ContrastiveLoss),
    "online-contrastive": Recipe(Form.LABELLED, OnlineContrastiveLoss),
    "class-triplets": Recipe(Form.CLASSES, lambda model: BatchHardSoftMarginTripletLoss(model, _distances)),
}


def find(name: str, judged: Sequence[Judged]) -> tuple[str, Recipe]:
    """The recipe of a name; of "auto" the one that fits the data."""
    chosen = choose(judged) if name == AUTO else name
    return chosen, RECIPES[chosen]


def build(recipe: Recipe, model: SentenceTransformer, sizes: Sequence[int]) -> Module:
    """The loss, taken at the full size and at each of ``sizes``, so that the head of a vector works alone.

    Matryoshka representation learning, Kusupati et al. 2022, arXiv:2205.13147.
    """
    loss = recipe.loss(model)
    full = int(model.get_embedding_dimension() or 0)
    return MatryoshkaLoss(model, loss, matryoshka_dims=[full, *sizes]) if sizes else loss
