"""The collection that is evaluated: one made for it, or one that is there."""

import itertools
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.markup import escape

from diapason.cli.output import Failure, Problem, counting_bar, remarks
from diapason.client import Client
from diapason.common.v1.version_pb2 import VersionRef
from diapason.errors import AlreadyExists, DeadlineExceeded, DiapasonError, NotFound
from diapason.evaluation.beir import Dataset, Entry
from diapason.search.v1.collection_pb2 import Bm25, Collection, CollectionSettings
from diapason.search.v1.document_pb2 import Document

_NAME_CHARACTERS = 63
_TITLE_CHARACTERS = 2_000
_TEXT_CHARACTERS = 100_000
_STALLED_SECONDS = 120.0
_MANY = 100


@dataclass(frozen=True)
class Recipe:
    """How to make a collection."""

    encoder: VersionRef
    dimensions: tuple[int, ...]
    reranker: VersionRef | None


@contextmanager
def made(client: Client, data: Dataset, recipe: Recipe, keep: bool) -> Iterator[str]:
    """The name of a new collection with the whole corpus; deleted at the end of the block, however it ends."""
    with _sigterm_as_ctrl_c():
        name = _create(client, data.name, recipe)
        try:
            if recipe.reranker:
                client.switch_route(name, "", client.collection(name).route.generation, recipe.reranker)
            _fill(client, name, data)
            yield name
        finally:
            if keep:
                remarks.print(f"Collection {name} is kept.")
            else:
                _delete(client, name)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _create(client: Client, folder: str, recipe: Recipe) -> str:
    settings = CollectionSettings(bm25=Bm25())
    taken = {known.name for known in client.collections()}
    for name in names(folder):
        if name in taken:
            continue
        try:
            client.create_collection(name, recipe.encoder, recipe.dimensions, settings=settings)
        except AlreadyExists:  # somebody was quicker
            continue
        except (KeyboardInterrupt, DeadlineExceeded):  # it may have been created nevertheless
            _delete(client, name)
            raise
        return name
    raise AssertionError("numbers do not end")


def names(folder: str) -> Iterator[str]:
    """What the collection of a folder may be called, from the first choice on, within the rules for names."""
    stem = re.sub(r"[^a-z0-9_-]+", "-", folder.lower()).strip("-") or "data"
    for number in itertools.count(1):
        ending = f"-{number}"
        yield f"eval-{stem}"[: _NAME_CHARACTERS - len(ending)] + ending


def _delete(client: Client, name: str) -> None:
    """Delete it, deaf to signals for so long. Failing is said, not raised: the block may have failed already."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        client.delete_collection(name)
    except NotFound:
        pass
    except DiapasonError as error:
        remarks.print(f"Collection {name} is left behind, it could not be deleted: {escape(error.message)}")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fill(client: Client, name: str, data: Dataset) -> None:
    """Write the corpus and wait until the index holds all of it."""
    written = waiting = empty = 0

    def documents() -> Iterator[Document]:
        nonlocal empty
        for entry in data.entries():
            if document := as_document(entry):
                yield document
            else:
                empty += 1
                bar.update(task, advance=1)

    with counting_bar() as bar:
        task = bar.add_task("indexing", total=len(data.document_ids))
        for receipt in client.upsert(name, documents()):
            if receipt.error:
                raise Problem(f"document {receipt.id!r} can't be indexed: {receipt.error}")
            written += 1
            waiting += not receipt.indexed
            bar.update(task, advance=1)
        if waiting:
            _await_index(client, name, written)
    if empty:
        remarks.print(f"{empty} documents have neither title nor text, so nothing can find them.")


def as_document(entry: Entry) -> Document | None:
    """The entry within the service's rules; None if it says nothing.

    A title stands in for a text that is missing, or moves into it if it is too long for a title. Text is cut at
    what the service takes, far beyond what an encoder reads.
    """
    title, text = entry.title.strip(), entry.text.strip()
    if not text or len(title) > _TITLE_CHARACTERS:
        title, text = "", f"{title}\n{text}".strip()
    return Document(id=entry.id, title=title, text=text[: _TEXT_CHARACTERS - len(title) - 1]) if text else None


def _await_index(client: Client, name: str, documents: int) -> None:
    """Return once the serving index holds as many documents. Raises ``Failure`` when it gets no further."""
    best, since = -1, time.monotonic()
    while time.monotonic() - since < _STALLED_SECONDS:
        collection = client.collection(name)
        points = next(index.points for index in collection.indexes if index.id == collection.route.index)
        if points >= documents:
            return
        if points > best:
            best, since = points, time.monotonic()
        time.sleep(0.5)
    raise Failure(f"only {best} of {documents} documents are indexed, and none were added of late; see the search log")


def present(client: Client, collection: Collection, data: Dataset) -> set[str]:
    """The judged documents that an existing collection has. Raises ``Problem`` if it has none of them."""
    judged = sorted(data.judged)
    found: set[str] = set()
    for part in _parts(judged, _MANY):
        found |= {document.id for document in client.documents(collection.name, part)}
    if not found:
        raise Problem(
            f"collection {collection.name!r} has none of the {len(judged)} documents that {data.name} judges, for "
            f"example {judged[0]!r}; index its corpus with the same ids, or leave --collection out"
        )
    return found


def _parts(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
