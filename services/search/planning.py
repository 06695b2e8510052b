"""What an index must take in for a batch of documents, given what it holds of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.search.domain.model import Document, FieldType, Span
from services.search.ports import Held, Point


@dataclass
class Plan:
    """The changes for a batch. ``texts[i]`` is to be embedded for ``points[i]``."""

    documents: Sequence[Document]
    points: list[Point] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    # Their text is what the index holds already.
    refreshed: list[Point] = field(default_factory=list)
    # Passages to remove before the others are written: from, to before.
    removed: dict[str, tuple[int, int]] = field(default_factory=dict)

    def holding(self) -> dict[str, Held | None]:
        """What the index will hold of these documents afterwards; None for nothing."""
        after: dict[str, Held | None] = {d.id: None for d in self.documents if d.deleted}
        return after | {p.document_id: Held(p.key, p.passages) for p in (*self.points, *self.refreshed)}

    def passages_before(self, document_id: str) -> int:
        """How many passages the index may hold of a document that is to be embedded again."""
        return max(
            [
                self.removed.get(document_id, (0, 0))[1],
                *(p.passages for p in self.points if p.document_id == document_id),
            ]
        )


def changed(documents: Sequence[Document], held: Mapping[str, Held]) -> list[Document]:
    """Those whose text the index doesn't hold."""
    return [d for d in documents if not d.deleted and (d.id not in held or held[d.id].key != d.key)]


def plan(
    documents: Sequence[Document],
    held: Mapping[str, Held],
    spans: Mapping[str, Sequence[Span]],
    fields: Mapping[str, FieldType],
) -> Plan:
    """Each document becomes points to embed, a refreshed point, or a removal.

    ``spans`` are the passages of those that are split; the others are one passage.
    """
    made = Plan(documents)
    to_embed = {document.id for document in changed(documents, held)}
    for document in documents:
        known = held.get(document.id)
        if document.deleted:
            if known:
                made.removed[document.id] = (0, known.passages)
        elif document.id not in to_embed and known:
            made.refreshed.append(_point(document, 0, known.passages, None, fields))
        else:
            split: Sequence[Span | None] = spans.get(document.id) or [None]
            if known and known.passages > len(split):
                made.removed[document.id] = (len(split), known.passages)
            # The first passage comes last: by it the index tells what it holds of a document.
            for number, span in reversed(list(enumerate(split))):
                made.points.append(_point(document, number, len(split), span, fields))
                made.texts.append(document.passage[span.start : span.end] if span else document.passage)
    return made


def _point(document: Document, number: int, passages: int, span: Span | None, fields: Mapping[str, FieldType]) -> Point:
    values = {name: document.payload[name] for name in fields if name in document.payload}
    return Point(document.id, document.sequence, document.key, number, passages, values, span)
