"""The collection that an evaluation is about, and the ways in which it is searched."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from diapason.cli.evaluate import choosing, indexing
from diapason.cli.output import Problem
from diapason.client import Client
from diapason.common.v1.version_pb2 import MODEL_KIND_RERANKER
from diapason.evaluation.beir import Dataset
from diapason.evaluation.modes import Mode
from diapason.search.v1.collection_pb2 import Collection


@dataclass(frozen=True)
class Wanted:
    """The options that say what to measure."""

    collection: str
    encoder: str
    reranker: str
    dimensions: str
    modes: list[Mode]
    keep: bool


@dataclass(frozen=True)
class Subject:
    """The collection that is measured. ``present`` are the judged documents that it has."""

    collection: Collection
    made: bool
    present: set[str]
    full: int
    sizes: list[int]
    modes: list[Mode]


@contextmanager
def subject(client: Client, judged: Dataset, wanted: Wanted) -> Iterator[Subject]:
    """The collection to measure, for the time of the block."""
    if wanted.collection:
        yield _existing(client, judged, wanted)
        return
    held = choosing.version(client, wanted.encoder)
    name = f"{held.version.model} version {held.version.number}"
    sizes = choosing.sizes(wanted.dimensions, held.dimension, held.dimensions, name)
    modes = choosing.modes(wanted.modes, words=True, reranker=bool(wanted.reranker))
    reranker = choosing.version(client, wanted.reranker, MODEL_KIND_RERANKER).version if wanted.reranker else None
    present = judged.judged & judged.document_ids
    if not present:
        raise Problem(f"the corpus of {judged.folder} has none of the documents that its split {judged.split!r} judges")
    small = tuple(size for size in sizes if size != held.dimension)
    with indexing.made(client, judged, indexing.Recipe(held.version, small, reranker), wanted.keep) as made:
        yield Subject(client.collection(made), True, present, held.dimension, sizes, modes)


def _existing(client: Client, judged: Dataset, wanted: Wanted) -> Subject:
    collection = client.collection(wanted.collection)
    held = choosing.serving(client, collection.route.encoder)
    offered, name = collection.settings.dimensions, f"collection {collection.name!r}"
    sizes = choosing.sizes(wanted.dimensions, held.dimension, offered, name)
    words, reranker = collection.settings.HasField("bm25"), bool(collection.route.reranker.digest)
    modes = choosing.modes(wanted.modes, words, reranker)
    present = indexing.present(client, collection, judged)
    return Subject(collection, False, present, held.dimension, sizes, modes)
