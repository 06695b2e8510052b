"""How much of a training to keep.

Between the weights before and after lie models that have learned nearly as much and forgotten less (Wortsman et al.,
Robust fine-tuning of zero-shot models, 2022, arXiv:2109.01903). Validation queries say which is best, and a guard set
which of them have forgotten too much.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

# Shares of the new weights that are tried besides all of them.
SHARES = (0.25, 0.5, 0.75)
# What is kept where no queries say how much: what Wortsman et al. recommend then. Of ten judgments it keeps most
# of what was learned and, where three of them are wrong, little of what was unlearned (docs/training.md).
UNSTEERED = 0.5
# How often the gap between what has forgotten too much and what has not is halved: a guard set costs time.
_HALVINGS = 2

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
        """What is known of it."""
        return {("ndcg@10" if name == "ndcg" else name): of for name, of in asdict(self).items() if of is not None}


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def mix(
    model: torch.nn.Module, before: Weights, validate: Callable[[], float] | None, forgetting: Forgetting | None = None
) -> tuple[float, list[Tried]]:
    """Give the model the best mix of its weights and those ``before``; returns the share of its own, and all tried.

    The best is the highest on validation queries, or without any the largest share up to a half, of those that have
    not forgotten more than the margin; if all have, what has forgotten least. The guard is asked until one is found,
    and then about shares between it and the next larger one.
    """
    after = weights_of(model)

    def tried(share: float) -> Tried:
        _take(model, before, after, share)
        return Tried(share, ndcg=validate() if validate else None)

    every = [tried(share) for share in (*SHARES, 1.0) if validate or share <= UNSTEERED]
    best = max(every, key=_rank)
    if forgetting:
        best = _allowed(every, tried, forgetting, lambda share: _take(model, before, after, share))
    _take(model, before, after, best.weight)
    return best.weight, sorted(every, key=lambda one: one.weight)


def _allowed(
    every: list[Tried], tried: Callable[[float], Tried], forgetting: Forgetting, take: Callable[[float], None]
) -> Tried:
    """The best that has not forgotten too much; what is tried besides is added to ``every``."""
    refused = []
    for best in sorted(every, key=_rank, reverse=True):
        take(best.weight)
        best.guard = forgetting.difference()
        if best.guard >= -forgetting.margin:
            break
        refused.append(best)
    else:
        return max(refused, key=lambda one: one.guard or 0.0)
    above = min((one.weight for one in refused if one.weight > best.weight), default=best.weight)
    for _ in range(_HALVINGS if above > best.weight else 0):
        between = tried((best.weight + above) / 2)
        between.guard = forgetting.difference()
        every.append(between)
        if between.guard >= -forgetting.margin and _rank(between) >= _rank(best):
            best = between
        else:
            above = between.weight
    return best


def _rank(one: Tried) -> tuple[float, float]:
    return one.ndcg or 0.0, one.weight


def told(tried: Sequence[Tried]) -> list[dict[str, Any]]:
    """What was asked of each, for the details; none of which nothing was asked."""
    return [one.said for one in tried if len(one.said) > 1]


def _take(model: torch.nn.Module, before: Weights, after: Weights, share: float) -> None:
    model.load_state_dict(
        {
            name: torch.lerp(before[name], value, share) if value.is_floating_point() else value
            for name, value in after.items()
        }
    )
