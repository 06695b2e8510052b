"""Which columns of a file mean what, and rows made of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diapason.datasets.checking import BadData, Problem, name_of
from diapason.trainer.v1 import dataset_pb2 as pb

Fields = Mapping[str, Any]

_QUERY = ("query", "anchor", "question")
_DOCUMENT = ("document", "text", "passage", "positive", "answer")
_DOCUMENT_ID = ("document_id", "doc_id", "corpus_id")
_LABEL = ("class", "label", "category")
# Of each form its fields, and the names under which a column may stand for them. The first name is the field's own.
_NAMES: dict[pb.DatasetForm.ValueType, dict[str, tuple[str, ...]]] = {
    pb.DATASET_FORM_JUDGMENTS: {
        "query": _QUERY,
        "document": _DOCUMENT,
        "document_id": _DOCUMENT_ID,
        "grade": ("grade", "relevance", "label", "score", "target"),
        "weight": ("weight",),
    },
    pb.DATASET_FORM_PAIRS: {
        "query": _QUERY,
        "positive": ("positive", "document", "text", "passage", "answer"),
        "positive_id": ("positive_id", *_DOCUMENT_ID),
        "weight": ("weight",),
    },
    pb.DATASET_FORM_TRIPLETS: {
        "query": _QUERY,
        "positive": ("positive",),
        "positive_id": ("positive_id",),
        "negative": ("negative",),
        "negative_id": ("negative_id",),
        "weight": ("weight",),
    },
    pb.DATASET_FORM_SCORED_PAIRS: {
        "query": (*_QUERY, "sentence1", "text1"),
        "document": (*_DOCUMENT, "sentence2", "text2"),
        "document_id": _DOCUMENT_ID,
        "score": ("score", "similarity", "label", "target"),
        "weight": ("weight",),
    },
    pb.DATASET_FORM_CLASSES: {
        "text": ("text", "sentence", "document"),
        "class": _LABEL,
    },
}
# These may be left out, or their text may be given instead.
_OPTIONAL = {"weight"}
_NUMBERS = {"grade", "score", "weight"}


def needs(form: pb.DatasetForm.ValueType) -> str:
    """The columns of a form, in words."""
    names = _NAMES[form]
    wanted = [f"{name} or {name}_id" if f"{name}_id" in names else name for name in names if not name.endswith("_id")]
    return ", ".join(f"{name} (optional)" if name in _OPTIONAL else name for name in wanted)


def guess(columns: Iterable[str]) -> pb.DatasetForm.ValueType:
    """The form that columns are most likely meant as. Raises ``BadData`` where that can't be told."""
    found = set(columns)

    def any_of(*names: str) -> bool:
        return bool(found & set(names))

    asked = any_of(*_QUERY)
    answered = any_of(*_DOCUMENT, *_DOCUMENT_ID, "positive_id")
    if any_of("negative", "negative_id"):
        return pb.DATASET_FORM_TRIPLETS
    if {"sentence1", "sentence2"} <= found or {"text1", "text2"} <= found:
        return pb.DATASET_FORM_SCORED_PAIRS
    by_id = any_of(*_DOCUMENT_ID)
    if asked and answered and not by_id and any_of("score", "similarity", "target"):
        return pb.DATASET_FORM_SCORED_PAIRS
    if asked and answered and any_of("grade", "relevance", "label", "score", "target"):
        return pb.DATASET_FORM_JUDGMENTS
    if asked and answered:
        return pb.DATASET_FORM_PAIRS
    if any_of(*_NAMES[pb.DATASET_FORM_CLASSES]["text"]) and any_of(*_LABEL):
        return pb.DATASET_FORM_CLASSES
    known = "; ".join(f"{name_of(form)}: {needs(form)}" for form in _NAMES)
    raise BadData(f"the columns {_listed(found)} fit no form of data. Forms and what they need: {known}")


@dataclass(frozen=True)
class Columns:
    """Which column holds which field."""

    form: pb.DatasetForm.ValueType
    of_field: Mapping[str, str]
    unread: tuple[str, ...]

    @classmethod
    def fit(cls, form: pb.DatasetForm.ValueType, columns: Iterable[str]) -> "Columns":
        """Find each field's column. Raises ``BadData`` if one is missing, or if two may be meant."""
        names, found = _NAMES[form], list(columns)
        of_field: dict[str, str] = {}
        for field, synonyms in names.items():
            meant = [name for name in synonyms if name in found and name not in of_field.values()]
            if len(meant) > 1:
                raise BadData(f"the columns {_listed(meant)} may all be the {field}; leave one of them, or rename them")
            if meant:
                of_field[field] = meant[0]
        missing = [
            field
            for field in names
            if field not in of_field
            and field not in _OPTIONAL
            and not field.endswith("_id")
            and f"{field}_id" not in of_field
        ]
        if missing:
            said = f"has the columns {_listed(found)} and none for {' and '.join(missing)}"
            raise BadData(f"{said}; {name_of(form)} need {needs(form)}")
        return cls(form, of_field, tuple(name for name in found if name not in of_field.values()))

    def row(self, place: str, given: Fields) -> pb.DatasetRow | Problem:
        """The row that a line's fields make, or why they make none. Numbers may be written as texts."""
        values: dict[str, Any] = {}
        for field, column in self.of_field.items():
            value = given.get(column)
            if value is None or value == "":
                continue
            made = _number(value) if field in _NUMBERS else _text(field, value)
            if made is None:
                kind = "a number" if field in _NUMBERS else "a text"
                return Problem(place, field, f"is {str(value)[:60]!r}; give {kind}")
            values[field] = made
        for name in ("document", "positive", "negative"):
            if name in values and f"{name}_id" in values:
                return Problem(place, name, f"stands beside {name}_id, which says another; give one of them")
        try:
            return _made(self.form, values)
        except UnicodeError:
            return Problem(place, "", "a text has half of a surrogate pair; repair it")


def _made(form: pb.DatasetForm.ValueType, values: Mapping[str, Any]) -> pb.DatasetRow:
    """Fields that are missing stay unset: the checker says so."""

    def passage(name: str) -> pb.Passage | None:
        if name in values:
            return pb.Passage(text=values[name])
        return pb.Passage(id=values[f"{name}_id"]) if f"{name}_id" in values else None

    query, weight = values.get("query", ""), values.get("weight")
    match form:
        case pb.DATASET_FORM_JUDGMENTS:
            judgment = pb.JudgmentRow(
                query=query, document=passage("document"), grade=values.get("grade"), weight=weight
            )
            return pb.DatasetRow(judgment=judgment)
        case pb.DATASET_FORM_PAIRS:
            return pb.DatasetRow(pair=pb.PairRow(query=query, positive=passage("positive"), weight=weight))
        case pb.DATASET_FORM_TRIPLETS:
            positive, negative = passage("positive"), passage("negative")
            triplet = pb.TripletRow(query=query, positive=positive, negative=negative, weight=weight)
            return pb.DatasetRow(triplet=triplet)
        case pb.DATASET_FORM_SCORED_PAIRS:
            scored = pb.ScoredPairRow(
                query=query, document=passage("document"), score=values.get("score"), weight=weight
            )
            return pb.DatasetRow(scored_pair=scored)
        case _:
            labelled = pb.ClassRow(text=values.get("text", ""), label=values.get("class", ""))
            return pb.DatasetRow(labelled=labelled)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _text(field: str, value: Any) -> str | None:
    """Ids and classes may be written as whole numbers."""
    if isinstance(value, str):
        return value
    short = field == "class" or field.endswith("_id")
    return str(value) if short and isinstance(value, int) and not isinstance(value, bool) else None


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(sorted(repr(name)[:40] for name in columns)) or "(none)"
