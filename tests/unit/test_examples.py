"""From judged queries to rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.domain.data import Judged
from services.trainer.domain.examples import Form, Row, resampled, rows
from services.trainer.domain.recipes import choose

DOCUMENTS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([-0.5, 0.0, 0.5, 1.0]), min_size=1)
JUDGED = st.lists(st.builds(Judged, st.text(max_size=3), DOCUMENTS), max_size=8, unique_by=lambda judged: judged.query)
MINED = st.permutations(list("abcdefghij"))


@given(JUDGED, MINED, st.sampled_from(Form), st.integers(1, 3))
def test_a_relevant_document_is_never_a_negative(
    judged: list[Judged], mined: list[str], form: Form, negatives: int
) -> None:
    by_query = {one.query: one for one in judged}
    # As mining leaves them: nothing that was judged.
    left = {one.query: [name for name in mined if name not in one.targets] for one in judged}
    for row in rows(form, judged, left, negatives):
        if form is Form.CLASSES:
            assert not row.documents
            continue
        relevant = by_query[row.query].relevant
        if form in (Form.RANKED, Form.TRIPLETS):
            assert row.documents[0] in relevant
            assert not set(row.documents[1:]) & relevant.keys()
        else:
            [name] = row.documents
            assert (row.label is not None and row.label >= 0.5) == (name in relevant)


@given(JUDGED, MINED, st.integers(1, 3))
def test_rows_of_one_form_have_as_many_columns(judged: list[Judged], mined: list[str], negatives: int) -> None:
    left = {one.query: [name for name in mined if name not in one.targets] for one in judged}
    assert {len(row.documents) for row in rows(Form.RANKED, judged, left, negatives)} <= {1 + negatives}
    assert {len(row.documents) for row in rows(Form.TRIPLETS, judged, left, negatives)} <= {2}


def test_what_people_refused_comes_before_what_was_mined_the_least_relevant_first() -> None:
    judged = Judged("q", {"good": 1.0, "poor": 0.2, "bad": -0.5})
    [row] = rows(Form.RANKED, [judged], {"q": ["x", "y"]}, 3)
    assert row.documents == ("good", "bad", "poor", "x")


@pytest.mark.parametrize("form", [Form.RANKED, Form.TRIPLETS])
def test_a_refusal_that_counts_less_than_the_liking_is_as_much_less_often_a_negative(form: Form) -> None:
    judged = [Judged(str(i), {"good": 1.0, "bad": 0.0}, {"good": 2.0, "bad": 0.5}) for i in range(400)]
    found = rows(form, judged, {one.query: ["mined"] for one in judged}, 1, seed=4)
    assert len(found) == 400
    assert sum("bad" in row.documents for row in found) == pytest.approx(100, abs=30)
    assert found == rows(form, judged, {one.query: ["mined"] for one in judged}, 1, seed=4)
    nothing = Judged("q", {"good": 1.0, "bad": 0.0}, {"bad": 0.0})
    assert rows(form, [nothing], {}, 1) == []


def test_scores_are_the_targets_and_labels_are_one_or_zero() -> None:
    judged = Judged("q", {"good": 0.8, "bad": -0.5}, {"good": 2.0})
    scored = {row.documents[0]: (row.label, row.weight) for row in rows(Form.SCORED, [judged], {}, 2)}
    assert scored == {"good": (0.8, 2.0), "bad": (-0.5, 1.0)}
    labelled = {row.documents[0]: row.label for row in rows(Form.LABELLED, [judged], {}, 2)}
    assert labelled == {"good": 1.0, "bad": 0.0}


def test_where_nothing_was_refused_what_was_mined_takes_its_place() -> None:
    found = {
        row.documents[0]: row.label for row in rows(Form.SCORED, [Judged("q", {"good": 1.0})], {"q": list("xyz")}, 2)
    }
    assert found == {"good": 1.0, "x": 0.0, "y": 0.0}


@given(st.lists(st.floats(0, 5), min_size=1, max_size=30), st.integers(0, 5))
def test_equal_weights_change_nothing(weights: list[float], seed: int) -> None:
    same = [Row(str(i), ("d",), 2.5) for i in range(len(weights))]
    assert resampled(same, seed) == same
    given_rows = [Row(str(i), ("d",), weight) for i, weight in enumerate(weights)]
    assert all(row.weight > 0 for row in resampled(given_rows, seed))
    assert resampled(given_rows, seed) == resampled(given_rows, seed)


def test_rows_come_as_often_as_they_count() -> None:
    given_rows = [Row("heavy", ("d",), 3.0)] * 500 + [Row("light", ("d",), 1.0)] * 500
    found = [row.query for row in resampled(given_rows, 1)]
    assert found.count("heavy") == pytest.approx(750, abs=40)
    assert found.count("light") == pytest.approx(250, abs=40)


@pytest.mark.parametrize(
    ("targets", "recipe"),
    [
        ([1.0], "multiple-negatives"),
        ([1.0, 0.0], "multiple-negatives"),
        ([0.8, -0.5], "multiple-negatives"),
        ([0.0, 0.25, 0.5, 1.0], "cosent"),
        # A few documents that people disagree about are no grades.
        ([1.0, 0.0] * 6 + [0.5, 2 / 3], "multiple-negatives"),
        ([1.0, 0.0] * 4 + [0.5, 2 / 3], "cosent"),
    ],
)
def test_the_recipe_follows_what_was_said(targets: list[float], recipe: str) -> None:
    assert choose([Judged("q", {str(i): target for i, target in enumerate(targets)})]) == recipe
