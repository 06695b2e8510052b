"""What a row must be like by itself, whatever the others are."""

from collections.abc import Callable, Iterator

from diapason.trainer.v1 import dataset_pb2 as pb

MAX_CHARACTERS = 100_000
MAX_ID_CHARACTERS, MAX_LABEL_CHARACTERS, MAX_WEIGHT = 1_000, 200, 100.0

# Names of fields, and what is wrong with each.
_Found = Iterator[tuple[str, str]]
_Weighted = pb.JudgmentRow | pb.PairRow | pb.TripletRow | pb.ScoredPairRow


def fault(row: pb.DatasetRow) -> tuple[str, str] | None:
    """The first field that breaks a rule, and what is wrong with it; None if none does. The row is not empty."""
    part = row.WhichOneof("row")
    assert part
    return next(_CHECKS[part](row), None)


def weight_of(row: _Weighted) -> float:
    """How much a row counts; 1 where nothing was said."""
    return row.weight if row.HasField("weight") else 1.0


def _judgment(row: pb.DatasetRow) -> _Found:
    j = row.judgment
    yield from _texts(query=j.query)
    yield from _document_fields(document=j.document)
    yield from _number("grade", j.grade if j.HasField("grade") else None, 0, 1)
    yield from _weights(j)


def _pair(row: pb.DatasetRow) -> _Found:
    yield from _texts(query=row.pair.query)
    yield from _document_fields(positive=row.pair.positive)
    yield from _weights(row.pair)


def _triplet(row: pb.DatasetRow) -> _Found:
    t = row.triplet
    yield from _texts(query=t.query)
    yield from _document_fields(positive=t.positive, negative=t.negative)
    yield from _weights(t)
    if t.negative == t.positive and t.negative.WhichOneof("passage"):
        yield "negative", "is the positive: one document can't be both; correct one of them"
    elif t.negative.text == t.query and t.query:
        yield "negative", "is the query itself; give a text that does not answer it"


def _scored_pair(row: pb.DatasetRow) -> _Found:
    s = row.scored_pair
    yield from _texts(query=s.query)
    yield from _document_fields(document=s.document)
    yield from _number("score", s.score if s.HasField("score") else None, -1, 1)
    yield from _weights(s)


def _labelled(row: pb.DatasetRow) -> _Found:
    yield from _texts(text=row.labelled.text)
    yield from _short("class", row.labelled.label, MAX_LABEL_CHARACTERS)


def _evaluation_document(row: pb.DatasetRow) -> _Found:
    document = row.evaluation_document
    yield from _short("id", document.id, MAX_ID_CHARACTERS)
    if document.text:
        yield from _texts(text=document.text.strip() or ".")  # without any text it is left out


def _evaluation_judgment(row: pb.DatasetRow) -> _Found:
    e = row.evaluation_judgment
    yield from _texts(query=e.query)
    yield from _short("document_id", e.document_id, MAX_ID_CHARACTERS)
    yield from _number("grade", e.grade if e.HasField("grade") else None, -1, 100)
    if e.grade % 1:
        yield "grade", f"is {e.grade}; give a whole number, as in TREC"


_CHECKS: dict[str, Callable[[pb.DatasetRow], _Found]] = {
    "judgment": _judgment,
    "pair": _pair,
    "triplet": _triplet,
    "scored_pair": _scored_pair,
    "labelled": _labelled,
    "evaluation_document": _evaluation_document,
    "evaluation_judgment": _evaluation_judgment,
}


def _texts(**given: str) -> _Found:
    for name, text in given.items():
        if not text.strip():
            yield name, "is empty; give a text"
        elif len(text) > MAX_CHARACTERS:
            yield name, f"has {len(text):,} characters; the most is {MAX_CHARACTERS:,}"


def _document_fields(**given: pb.Passage) -> _Found:
    for name, passage in given.items():
        match passage.WhichOneof("passage"):
            case "text":
                yield from _texts(**{name: passage.text})
            case "id":
                yield from _short(name, passage.id, MAX_ID_CHARACTERS)
            case _:
                yield name, "is missing; give a text, or a document's id"


def _short(name: str, text: str, most: int) -> _Found:
    if not text.strip():
        yield name, "is empty; give one"
    elif len(text) > most:
        yield name, f"has {len(text):,} characters; the most is {most}"


def _number(name: str, value: float | None, least: float, most: float) -> _Found:
    if value is None:
        yield name, f"is missing; give a number from {least} to {most}"
    elif not least <= value <= most:  # what is no number is neither
        yield name, f"is {value}; give a number from {least} to {most}"


def _weights(row: _Weighted) -> _Found:
    if row.HasField("weight") and not 0 < row.weight <= MAX_WEIGHT:
        yield "weight", f"is {row.weight}; give more than 0, at most {MAX_WEIGHT:.0f}"
