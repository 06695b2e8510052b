"""One order from the first stage's and a reranker's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diapason.blending import blended

SCORES = st.integers(-1000, 1000).map(lambda number: number / 8)
PAIRS = st.lists(st.tuples(SCORES, SCORES), max_size=60)
SHARES = st.sampled_from([0.1, 0.5, 0.9])


def order(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])


@given(PAIRS)
def test_without_a_share_of_the_first_stage_a_rerankers_scores_are_as_they_were(
    pairs: list[tuple[float, float]],
) -> None:
    first, rerank = [one for one, _ in pairs], [other for _, other in pairs]
    assert blended(first, rerank, 0.0) == rerank


@given(PAIRS, SHARES, st.sampled_from([0.25, 8.0]), SCORES)
def test_the_scale_of_either_does_not_count(
    pairs: list[tuple[float, float]], share: float, factor: float, offset: float
) -> None:
    first, rerank = [one for one, _ in pairs], [other for _, other in pairs]
    plain = blended(first, rerank, share)
    scaled = [factor * score + offset for score in first]
    assert blended(scaled, rerank, share) == pytest.approx(plain, abs=1e-6)
    assert blended(first, [factor * score + offset for score in rerank], share) == pytest.approx(plain, abs=1e-6)


@given(PAIRS, SHARES)
def test_what_is_better_by_both_is_better(pairs: list[tuple[float, float]], share: float) -> None:
    final = blended([one for one, _ in pairs], [other for _, other in pairs], share)
    for i, (first, rerank) in enumerate(pairs):
        for j, (other_first, other_rerank) in enumerate(pairs):
            if first > other_first and rerank > other_rerank:
                assert final[i] > final[j]


@given(PAIRS, SHARES)
def test_where_one_has_no_opinion_the_other_decides(pairs: list[tuple[float, float]], share: float) -> None:
    some = [one for one, _ in pairs]
    assert order(blended(some, [1.0] * len(some), share)) == order(some)
    assert order(blended([1.0] * len(some), some, share)) == order(some)
