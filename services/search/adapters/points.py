"""How passages lie in an engine: the same ids, names and payload in every one.

A point's payload is `{"id", "passage", "passages", "key", "sequence", "f": {field: value}}`, and
"start" and "end" where its document was split, "truncated" where the encoder did not read all of it.
"""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from diapason.vectors import Matrix
from services.search.domain.model import Distance, Hit, Quantization, Settings, Span
from services.search.ports import Held, Point, Query, Stored

FULL, WORDS = "full", "words"
ID, PASSAGE, PASSAGES, KEY, SEQUENCE, FIELDS = "id", "passage", "passages", "key", "sequence", "f"
START, END, TRUNCATED = "start", "end", "truncated"
# What tells what is held of a document.
HELD = [ID, KEY, PASSAGES, TRUNCATED]
# What a hit needs of a payload.
HIT = [ID, PASSAGE, START, END, KEY]
# Length of the lists that are fused, and of a coarse first stage; whatever page is asked for, so that pages
# are parts of one order.
CANDIDATES = 200
# The constant of reciprocal rank fusion is 60 (Cormack, Clarke and Buettcher, 2009), where ranks
# are counted from one; the engine counts them from zero.
RRF_K = 61

# Candidates found by compressed vectors, as a multiple of the results, before the originals decide.
OVERSAMPLING = {Quantization.INT8: 2.0, Quantization.BINARY: 8.0, Quantization.TURBO: 2.0}
# The graph: edges of a node, candidates while it is built, candidates while it is searched.
M, EF_CONSTRUCT, EF = 16, 200, 128

# Point ids must be UUIDs or integers; this makes one from any document id, always the same.
_NAMESPACE = uuid.UUID("6f1d5c0e-7c0b-4f5e-9d6a-0d1a5a0e7c51")


def point_id(document_id: str, passage: int = 0) -> uuid.UUID:
    """The id of a document's passage."""
    return uuid.uuid5(_NAMESPACE, f"{document_id}\0{passage}" if passage else document_id)


def sizes(dimension: int, settings: Settings) -> dict[str, int]:
    """The named vectors of an index and their sizes."""
    return {FULL: dimension, **{str(size): size for size in settings.dimensions}}


def vector_name(size: int, full: int) -> str:
    """The name of the vectors of one size; zero means the full one."""
    return FULL if size in (0, full) else str(size)


def head(vector: Matrix, size: int) -> list[float]:
    """The first ``size`` numbers (zero: all) of one row. For cosine the engine brings it to unit length."""
    numbers: list[float] = (vector[:size] if size else vector).tolist()
    return numbers


def payload(point: Point) -> dict[str, Any]:
    """What is stored beside the vectors."""
    content: dict[str, Any] = {
        ID: point.document_id,
        PASSAGE: point.passage,
        PASSAGES: point.passages,
        KEY: point.key,
        SEQUENCE: point.sequence,
        FIELDS: dict(point.fields),
    }
    if point.span:
        content |= {START: point.span.start, END: point.span.end}
    if point.truncated:
        content[TRUNCATED] = True
    return content


def refreshed(point: Point) -> dict[str, Any]:
    """What changes of that where only the fields did."""
    return {SEQUENCE: point.sequence, FIELDS: dict(point.fields)}


def span(content: Mapping[str, Any]) -> Span | None:
    """Where the passage lies, if the document was split."""
    return Span(int(content[START]), int(content[END])) if START in content else None


def held(content: Mapping[str, Any]) -> Held:
    """What the payload of a document's first passage says."""
    return Held(str(content[KEY]), int(content[PASSAGES]), bool(content.get(TRUNCATED)))


class Record(Protocol):
    """A point that an engine gives back."""

    @property
    def payload(self) -> dict[str, Any] | None:
        """At least what `HIT` names."""

    @property
    def vector(self) -> Any:
        """By name, as far as it was asked for."""


class Scored(Record, Protocol):
    """A point that an engine found."""

    @property
    def score(self) -> float:
        """As the engine counts."""


def stored(records: Iterable[Record]) -> dict[str, list[Stored]]:
    """The passages of documents from records with their full vectors, in order."""
    found: dict[str, list[Stored]] = {}
    for record in records:
        content = record.payload or {}
        vector = np.asarray(record.vector[FULL], np.float32)
        found.setdefault(str(content[ID]), []).append(Stored(int(content[PASSAGE]), span(content), vector))
    for passages in found.values():
        passages.sort(key=lambda one: one.passage)
    return found


def hits(found: Iterable[Scored], distance: Distance, query: Query) -> list[Hit]:
    """What was found, in the form that search knows: higher is nearer."""
    scored = ((point.payload or {}, sign(distance, query) * point.score) for point in found)
    return [
        Hit(str(content[ID]), score, int(content[PASSAGE]), span(content), str(content[KEY]))
        for content, score in scored
    ]


def sign(distance: Distance, query: Query) -> float:
    """-1 where the engine's scores are distances, else 1."""
    return -1.0 if distance is Distance.EUCLID and query.words is None else 1.0


def threshold(distance: Distance, query: Query) -> float | None:
    """The bound in the engine's terms."""
    return None if query.threshold is None else sign(distance, query) * query.threshold
