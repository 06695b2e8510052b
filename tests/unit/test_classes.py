"""Texts with classes as judged queries."""

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.domain.classes import DOCUMENTS, prepare
from services.trainer.domain.data import Judged, is_held_out
from services.trainer.domain.examples import Form, rows
from services.trainer.domain.recipes import CLASSES, choose

LABELS = st.dictionaries(st.text(min_size=1, max_size=6), st.sampled_from("abc"), max_size=80)


@given(LABELS, st.floats(0.05, 0.95))
def test_i9_what_is_held_out_or_steers_is_never_a_document(labels: dict[str, str], share: float) -> None:
    made = prepare(labels, share, str.upper)
    asking = {one.query for one in (*made.dataset.held_out, *made.dataset.validation)}
    trained = {one.query for one in made.dataset.train}
    assert not asking & set(made.documents.values())
    assert not asking & trained
    assert set(made.documents.values()) <= trained
    assert not any(is_held_out(text, share) for text in trained)


@given(LABELS, st.floats(0.05, 0.95))
def test_a_text_asks_for_others_of_its_class_and_all_of_them(labels: dict[str, str], share: float) -> None:
    made = prepare(labels, share, lambda text: f"id {text}")
    for one in (*made.dataset.train, *made.dataset.validation, *made.dataset.held_out):
        same = {name for name, text in made.documents.items() if labels[text] == one.label == labels[one.query]}
        assert set(one.relevant) == same - {f"id {one.query}"}
        assert len(same) <= DOCUMENTS


def test_the_split_does_not_hang_on_the_order() -> None:
    labels = {f"text {i}": str(i % 3) for i in range(60)}
    assert prepare(labels, 0.3, str) == prepare(dict(reversed(labels.items())), 0.3, str)


def test_classes_become_numbers_and_choose_their_recipe() -> None:
    judged = [Judged(f"t{i}", {"d": 1.0}, label="zab"[i % 3]) for i in range(6)]
    assert [row.label for row in rows(Form.CLASSES, judged, {}, 3)] == [2, 0, 1, 2, 0, 1]
    assert choose(judged) == CLASSES
