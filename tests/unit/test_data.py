"""From judgments to queries to train on, to steer by, and to hold out."""

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.domain.data import (
    MIN_VALIDATION,
    Judgment,
    is_held_out,
    is_steering,
    prepare,
    trainable_queries,
)

JUDGMENTS = st.lists(
    st.builds(
        Judgment,
        st.text(max_size=5),
        st.sampled_from("abcde"),
        st.sampled_from([-0.5, 0.4, 0.5, 1.0]),
        st.floats(0.1, 3),
    ),
    max_size=60,
    unique_by=lambda j: (j.query, j.document_id),
)


@given(JUDGMENTS, st.floats(0.05, 0.95))
def test_i9_the_split_is_by_query(judgments: list[Judgment], share: float) -> None:
    dataset = prepare(judgments, share)
    train, steering = ({judged.query for judged in some} for some in (dataset.train, dataset.validation))
    held_out = {judged.query for judged in dataset.held_out}
    assert not train & held_out
    assert not steering & held_out
    assert not train & steering
    assert not any(is_held_out(query, share) for query in train | steering)


@given(st.text(alphabet="abcABCß ", min_size=1, max_size=8), st.floats(0.05, 0.95))
def test_i9_what_differs_in_capitals_alone_is_on_one_side(query: str, share: float) -> None:
    asked = (query, query.upper(), query.lower(), query.title())
    assert len({is_held_out(one, share) for one in asked}) == 1
    assert len({is_steering(one) for one in asked}) == 1


@given(JUDGMENTS, JUDGMENTS)
def test_i9_more_judgments_never_move_a_query_to_the_other_side(first: list[Judgment], more: list[Judgment]) -> None:
    early, late = prepare(first, 0.3), prepare([*first, *more], 0.3)
    held_out = {judged.query for judged in early.held_out}
    assert not held_out & {judged.query for judged in (*late.train, *late.validation)}


@given(JUDGMENTS)
def test_every_query_with_a_relevant_document_is_used_once(judgments: list[Judgment]) -> None:
    dataset = prepare(judgments, 0.3)
    assert dataset.train_queries + len(dataset.validation) + len(dataset.held_out) == trainable_queries(judgments)


@given(JUDGMENTS)
def test_what_was_said_is_kept_whole(judgments: list[Judgment]) -> None:
    said = {(j.query, j.document_id): (j.target, j.weight) for j in judgments}
    for judged in prepare(judgments, 0.3).train:
        assert {*judged.relevant, *judged.refused} == judged.targets.keys()
        for name, target in judged.targets.items():
            assert said[judged.query, name] == (target, judged.weight(name))


def test_the_share_held_out_is_about_the_share_asked_for() -> None:
    held = sum(is_held_out(f"query {i}", 0.25) for i in range(4000))
    assert 850 < held < 1150


def test_training_is_steered_once_there_are_queries_enough() -> None:
    many = [Judgment(f"query {i}", "a", 1.0, 1.0) for i in range(400)]
    assert 40 < len(prepare(many, 0.25).validation) < 80
    assert not prepare(many[: 3 * MIN_VALIDATION], 0.25).validation
