"""One order from two: the first stage's and a reranker's."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def blended(first: Sequence[float], rerank: Sequence[float], share: float) -> list[float]:
    """The final score of each candidate, from both of its scores; higher is better in all three.

    ``share`` is the first stage's, from 0 to 1; without it the reranker's scores are returned as they are. Otherwise
    both are standardized over the candidates, since their scales have nothing in common, and interpolated (for what
    interpolation gains see Leonhardt et al., Efficient neural ranking using forward indexes, 2022, arXiv:2110.06051).
    """
    if not share:
        return list(rerank)
    mixed: list[float] = (share * _standardized(first) + (1.0 - share) * _standardized(rerank)).tolist()
    return mixed


def _standardized(scores: Sequence[float]) -> npt.NDArray[np.float64]:
    given = np.asarray(scores, np.float64)
    spread = given.std() if len(given) else 0.0
    return (given - given.mean()) / spread if spread else np.zeros(len(given))
