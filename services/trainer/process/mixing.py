"""How much of a training to keep.

Between the weights before and after lie models that have learned nearly as much and forgotten less (Wortsman et al.,
Robust fine-tuning of zero-shot models, 2022, arXiv:2109.01903). Validation queries say which is best.
"""

from collections.abc import Callable, Mapping

import torch

# Shares of the new weights that are tried besides all of them.
SHARES = (0.25, 0.5, 0.75)

Weights = Mapping[str, torch.Tensor]


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def mix(model: torch.nn.Module, before: Weights, validate: Callable[[], float]) -> tuple[float, list[dict[str, float]]]:
    """Give the model the best mix of its weights and those ``before``; returns the share of its own, and all tried."""
    after = weights_of(model)
    tried = [{"weight": 1.0, "ndcg@10": validate()}]
    for share in SHARES:
        model.load_state_dict(_between(before, after, share))
        tried.append({"weight": share, "ndcg@10": validate()})
    best = max(tried, key=lambda one: (one["ndcg@10"], one["weight"]))
    model.load_state_dict(_between(before, after, best["weight"]))
    return best["weight"], sorted(tried, key=lambda one: one["weight"])


def _between(before: Weights, after: Weights, share: float) -> dict[str, torch.Tensor]:
    return {
        name: torch.lerp(before[name], value, share) if value.is_floating_point() else value
        for name, value in after.items()
    }
