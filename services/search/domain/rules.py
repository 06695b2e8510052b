"""What is allowed: names, settings, documents, and when a route may switch."""

import json
import math
import re
from collections.abc import Mapping, Sequence

from services.kit.errors import Conflict, FailedPrecondition, InvalidArgument, Violation
from services.search.domain.model import (
    Bm25,
    Document,
    Encoder,
    FieldType,
    Index,
    IndexState,
    Passages,
    Quantization,
    Settings,
)

MAX_ID_CHARACTERS = 512
MAX_TEXT_CHARACTERS = 100_000
MAX_TITLE_CHARACTERS = 2_000
MAX_PAYLOAD_CHARACTERS = 64_000
MAX_REVISION = 2**62
MAX_RETENTION_SECONDS = 365 * 24 * 3600.0
MAX_FIELDS = 32
MIN_PASSAGE_TOKENS = 16
MAX_RATE = 1e6

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")

# Of a point besides its vectors, on disk: ids, payload, graph (measured: `make bench-scale`).
_POINT_BYTES = 700
_COMPRESSED = {Quantization.NONE: 0.0, Quantization.INT8: 1.0, Quantization.BINARY: 0.125, Quantization.TURBO: 0.5}


def check_name(name: str) -> None:
    """Raise ``InvalidArgument`` unless ``name`` can name a collection (and a folder)."""
    if not _NAME.fullmatch(name):
        rule = "use 1 to 63 lower-case letters, digits, '-' and '_', a letter or digit first"
        raise InvalidArgument(Violation("name", f"is {name!r}; {rule}"))


def check_settings(settings: Settings, encoder: Encoder) -> None:
    """Raise ``InvalidArgument`` unless the settings make sense and the encoder can give what they ask."""
    named = f"{encoder.version.model} version {encoder.version.number}"
    wrong = [*_retention(settings.retention, "settings.retention"), *_fields(settings.fields, "settings.fields")]
    if sizes := [size for size in settings.dimensions if size not in encoder.dimensions]:
        wrong.append(Violation("settings.dimensions", f"has {sizes}; {named} offers {list(encoder.dimensions)}"))
    if settings.bm25:
        wrong += _bm25(settings.bm25)
    if settings.passages:
        wrong += _passages(settings.passages, encoder.max_tokens, named)
    if wrong:
        raise InvalidArgument(*wrong)


def check_update(retention: float | None, declared: Mapping[str, FieldType], fields: Mapping[str, FieldType]) -> None:
    """Raise ``InvalidArgument`` unless the collection, which has ``declared``, can take the changes."""
    wrong = [] if retention is None else _retention(retention, "retention")
    wrong += _fields({**declared, **fields}, "fields")
    wrong += [
        Violation("fields", f"declares {name!r} as {kind.value}; it is {declared[name].value} and stays so")
        for name, kind in fields.items()
        if declared.get(name, kind) is not kind
    ]
    if wrong:
        raise InvalidArgument(*wrong)


def _retention(seconds: float, path: str) -> list[Violation]:
    if 0 <= seconds <= MAX_RETENTION_SECONDS:
        return []
    return [Violation(path, f"is {seconds:g} s; give 0 s to 365 days")]


def _fields(fields: Mapping[str, FieldType], path: str) -> list[Violation]:
    wrong = [
        Violation(path, f"has {name!r}; use letters, digits and '_', not a digit first, 63 at most")
        for name in fields
        if not _FIELD.fullmatch(name)
    ]
    if len(fields) > MAX_FIELDS:
        wrong.append(Violation(path, f"has {len(fields)} fields; the most is {MAX_FIELDS}"))
    return wrong


def _bm25(bm25: Bm25) -> list[Violation]:
    if 1 <= bm25.average_words <= 100_000:
        return []
    return [Violation("settings.bm25.average_words", f"is {bm25.average_words:g}; give 1 to 100000, or 0 for 256")]


def _passages(passages: Passages, reads: int, named: str) -> list[Violation]:
    wrong, most = [], passages.max_tokens or reads
    if passages.max_tokens and not MIN_PASSAGE_TOKENS <= passages.max_tokens <= (reads or math.inf):
        bounds = f"{MIN_PASSAGE_TOKENS} to the {reads} that {named} reads, or 0 for those"
        wrong.append(Violation("settings.passages.max_tokens", f"is {passages.max_tokens}; give {bounds}"))
    if passages.overlap_tokens and 2 * passages.overlap_tokens >= most:
        given = f"is {passages.overlap_tokens}; give less than half of {most}"
        wrong.append(Violation("settings.passages.overlap_tokens", given))
    return wrong


def check_rate(documents_per_second: float) -> None:
    """Raise ``InvalidArgument`` unless it can be a bound on a reindex's rate."""
    if not 0 <= documents_per_second <= MAX_RATE:
        given = f"is {documents_per_second:g}; give 0 for no bound, or up to {MAX_RATE:g}"
        raise InvalidArgument(Violation("max_documents_per_second", given))


def document_error(document: Document) -> str:
    """What is wrong with a document, with the remedy; empty if nothing is."""
    if not document.id or len(document.id) > MAX_ID_CHARACTERS:
        return f"id: has {len(document.id)} characters; give 1 to {MAX_ID_CHARACTERS}"
    if "\0" in document.id or "\0" in document.text or "\0" in document.title:
        return "text: has a NUL character in id, title or text; leave it out"
    if not document.text.strip():
        return "text: is empty; give the text to be searched"
    if len(document.passage) > MAX_TEXT_CHARACTERS:
        return (
            f"text: has {len(document.passage)} characters with the title; the most is {MAX_TEXT_CHARACTERS}: split it"
        )
    if len(document.title) > MAX_TITLE_CHARACTERS:
        return f"title: has {len(document.title)} characters; the most is {MAX_TITLE_CHARACTERS}"
    if (size := len(json.dumps(dict(document.payload)))) > MAX_PAYLOAD_CHARACTERS:
        return f"payload: has {size} characters as JSON; the most is {MAX_PAYLOAD_CHARACTERS}"
    if document.revision > MAX_REVISION:
        return f"revision: is {document.revision}; the most is {MAX_REVISION}"
    return ""


def disk_bytes(documents: int, encoder: Encoder, settings: Settings) -> int:
    """About how much an index of so many documents needs, each one passage, while it is brought into form."""
    numbers = encoder.dimension + sum(settings.dimensions)
    point = 4 * numbers + _COMPRESSED[settings.quantization] * encoder.dimension + _POINT_BYTES
    return int(3 * documents * point)  # a copy is formed (ADR 17), and segments are written anew in it


def stale_generation(collection: str, expected: int) -> Conflict:
    """What to say to whoever lost a compare-and-set."""
    return Conflict(f"the route of {collection!r} is no longer at generation {expected}; read it again and decide anew")


def not_switchable(index_id: str, state: IndexState) -> FailedPrecondition:
    """What to say of an index that can't be switched to."""
    return FailedPrecondition(
        "INDEX_NOT_SWITCHABLE", index_id, f"index {index_id!r} is {state.value}; GetCollection lists those kept"
    )


_UNNAMED = "start a new reindex, or see the log of the index's keeper for documents that can't be embedded"


def check_switch(
    index: Index, applied: int, newest: int, held: int, documents: int, refused: Sequence[str] = ()
) -> None:
    """Raise ``FailedPrecondition`` unless the index holds exactly what the collection holds.

    ``applied`` and ``newest`` are places in the order of writing, ``held`` and ``documents`` counts,
    ``refused`` the documents known to be left out because they can't be embedded.
    """
    if index.state in (IndexState.DROPPED, IndexState.SERVING):
        raise not_switchable(index.id, index.state)
    if applied < newest:
        raise FailedPrecondition(
            "INDEX_BEHIND",
            index.id,
            f"index {index.id!r} lacks {newest - applied} writes; wait until it has caught up",
        )
    if index.state is IndexState.BUILDING:
        raise FailedPrecondition(
            "INDEX_NOT_READY", index.id, f"index {index.id!r} is being brought into form; try again soon"
        )
    if held != documents:
        named = ", ".join(map(repr, refused[:5]))
        remedy = f"change or delete those that can't be embedded: {named}" if refused else _UNNAMED
        raise FailedPrecondition(
            "COUNT_MISMATCH",
            index.id,
            f"index {index.id!r} holds {held} of {documents} documents; {remedy}",
        )
