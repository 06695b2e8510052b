"""From judgments to examples and held-out queries."""

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.domain.data import Judgment, is_held_out, prepare, trainable_queries

JUDGMENTS = st.lists(
    st.builds(
        Judgment, st.text(max_size=5), st.sampled_from("abcde"), st.sampled_from([0.0, 0.4, 0.5, 1.0]), st.just(1.0)
    ),
    max_size=60,
    unique_by=lambda j: (j.query, j.document_id),
)


@given(JUDGMENTS, st.floats(0.05, 0.95))
def test_i9_the_split_is_by_query(judgments: list[Judgment], share: float) -> None:
    dataset = prepare(judgments, share)
    assert not {example.query for example in dataset.examples} & set(dataset.held_out)


@given(JUDGMENTS, JUDGMENTS)
def test_i9_more_judgments_never_move_a_query_to_the_other_side(first: list[Judgment], more: list[Judgment]) -> None:
    early, late = prepare(first, 0.3), prepare([*first, *more], 0.3)
    assert not set(early.held_out) & {example.query for example in late.examples}


@given(JUDGMENTS)
def test_a_relevant_document_is_never_a_negative(judgments: list[Judgment]) -> None:
    liked = {(j.query, j.document_id) for j in judgments if j.target >= 0.5}
    for example in prepare(judgments, 0.3).examples:
        assert (example.query, example.positive) in liked
        assert not any((example.query, negative) in liked for negative in example.negatives)


@given(JUDGMENTS)
def test_every_query_with_a_relevant_document_is_used_once(judgments: list[Judgment]) -> None:
    dataset = prepare(judgments, 0.3)
    assert dataset.train_queries + len(dataset.held_out) == trainable_queries(judgments)


def test_the_share_held_out_is_about_the_share_asked_for() -> None:
    held = sum(is_held_out(f"query {i}", 0.25) for i in range(4000))
    assert 850 < held < 1150
