"""How much of a training to keep.

Between the weights before and after lie models that have learned nearly as much and forgotten less (Wortsman et al.,
Robust fine-tuning of zero-shot models, 2022, arXiv:2109.01903). Validation queries say which is best, and a guard set
which of them have forgotten too much.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

# Shares of the new weights that are tried besides all of them.
SHARES = (0.25, 0.5, 0.75)

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Forgetting:
    """What the model has lost: ``difference`` is its nDCG@10 on the guard set as it is then, less what that was."""

    difference: Callable[[], float]
    margin: float


@dataclass
class Tried:
    """A share of the new weights, its nDCG@10 on validation queries if there are any, its guard difference if asked."""

    weight: float
    ndcg: float | None = None
    guard: float | None = None

    @property
    def said(self) -> dict[str, Any]:
        """For the details."""
        return {("ndcg@10" if name == "ndcg" else name): of for name, of in asdict(self).items() if of is not None}


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def mix(
    model: torch.nn.Module, before: Weights, validate: Callable[[], float] | None, forgetting: Forgetting | None = None
) -> tuple[float, list[Tried]]:
    """Give the model the best mix of its weights and those ``before``; returns the share of its own, and all tried.

    The best is the highest on validation queries, or without any the largest share, of those that have not forgotten
    more than the margin; if all have, what has forgotten least. The guard set is asked only until one is found.
    """
    if not validate and not forgetting:
        return 1.0, []
    after = weights_of(model)
    tried = [Tried(share) for share in (*SHARES, 1.0)]
    if validate:
        for one in tried:
            _take(model, before, after, one.weight)
            one.ndcg = validate()
    ranked = sorted(tried, key=lambda one: (one.ndcg or 0.0, one.weight), reverse=True)
    best = ranked[0]
    if forgetting:
        for one in ranked:
            _take(model, before, after, one.weight)
            one.guard = forgetting.difference()
            if one.guard >= -forgetting.margin:
                best = one
                break
        else:
            best = max(ranked, key=lambda one: one.guard or 0.0)
    _take(model, before, after, best.weight)
    return best.weight, tried


def _take(model: torch.nn.Module, before: Weights, after: Weights, share: float) -> None:
    model.load_state_dict(
        {
            name: torch.lerp(before[name], value, share) if value.is_floating_point() else value
            for name, value in after.items()
        }
    )
