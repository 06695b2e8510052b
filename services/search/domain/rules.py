"""What is allowed: names, documents, queries, and when a route may switch."""

import json
import re

from services.kit.errors import Conflict, FailedPrecondition, InvalidArgument, Violation
from services.search.domain.model import Document, Encoder, Index, IndexState, Settings

MAX_QUERY_CHARACTERS = 4_000
MAX_LIMIT = 100
DEFAULT_LIMIT = 10
MAX_ID_CHARACTERS = 512
MAX_TEXT_CHARACTERS = 100_000
MAX_TITLE_CHARACTERS = 2_000
MAX_PAYLOAD_CHARACTERS = 64_000
MAX_ACTOR_CHARACTERS = 200
MAX_RETENTION_SECONDS = 365 * 24 * 3600.0

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def check_name(name: str) -> None:
    """Raise ``InvalidArgument`` unless ``name`` can name a collection (and a folder)."""
    if not _NAME.fullmatch(name):
        rule = "use 1 to 63 lower-case letters, digits, '-' and '_', a letter or digit first"
        raise InvalidArgument(Violation("name", f"is {name!r}; {rule}"))


def check_settings(settings: Settings, encoder: Encoder) -> None:
    """Raise ``InvalidArgument`` unless the encoder can give what the settings ask."""
    wrong = [size for size in settings.dimensions if size not in encoder.dimensions]
    if wrong:
        named = f"{encoder.version.model} version {encoder.version.number}"
        raise InvalidArgument(
            Violation("settings.dimensions", f"has {wrong}; {named} offers {list(encoder.dimensions)}")
        )
    if not 0 <= settings.retention <= MAX_RETENTION_SECONDS:
        raise InvalidArgument(Violation("settings.retention", f"is {settings.retention:g} s; give 0 s to 365 days"))


def check_query(query: str, limit: int, dimensions: int, offered: tuple[int, ...], actor: str) -> None:
    """Raise ``InvalidArgument`` with all that is wrong with a search request."""
    wrong: list[Violation] = []
    if len(actor) > MAX_ACTOR_CHARACTERS:
        wrong.append(Violation("actor", f"has {len(actor)} characters; the most is {MAX_ACTOR_CHARACTERS}"))
    if not query.strip():
        wrong.append(Violation("query", "is empty; say what to look for"))
    elif len(query) > MAX_QUERY_CHARACTERS:
        wrong.append(Violation("query", f"has {len(query)} characters; the most is {MAX_QUERY_CHARACTERS}"))
    if not 0 <= limit <= MAX_LIMIT:
        wrong.append(Violation("limit", f"is {limit}; give 1 to {MAX_LIMIT}, or 0 for {DEFAULT_LIMIT}"))
    if dimensions and dimensions not in offered:
        wrong.append(Violation("dimensions", f"is {dimensions}; this collection has {list(offered)}"))
    if wrong:
        raise InvalidArgument(*wrong)


def document_error(document: Document) -> str:
    """What is wrong with a document, with the remedy; empty if nothing is."""
    if not document.id or len(document.id) > MAX_ID_CHARACTERS:
        return f"id: has {len(document.id)} characters; give 1 to {MAX_ID_CHARACTERS}"
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
    return ""


def stale_generation(collection: str, expected: int) -> Conflict:
    """What to say to whoever lost a compare-and-set."""
    return Conflict(f"the route of {collection!r} is no longer at generation {expected}; read it again and decide anew")


def check_switch(index: Index, applied: int, newest: int, points: int, documents: int) -> None:
    """Raise ``FailedPrecondition`` unless the index holds exactly what the collection holds.

    ``applied`` and ``newest`` are places in the order of writing, ``points`` and ``documents`` counts.
    """
    if index.state in (IndexState.DROPPED, IndexState.SERVING):
        raise FailedPrecondition(
            "INDEX_NOT_SWITCHABLE",
            index.id,
            f"index {index.id!r} is {index.state.value}; GetCollection lists those kept",
        )
    if applied < newest:
        raise FailedPrecondition(
            "INDEX_BEHIND",
            index.id,
            f"index {index.id!r} lacks {newest - applied} writes; wait until it has caught up",
        )
    if points != documents:
        raise FailedPrecondition(
            "COUNT_MISMATCH",
            index.id,
            f"index {index.id!r} holds {points} points for {documents} documents; start a new reindex",
        )
