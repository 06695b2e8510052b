"""Moving house: a collection with its vectors, out of one engine and into another."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diapason.vectors import Matrix
from services.kit.errors import InvalidArgument, NotFound, Violation
from services.search.adapters.words import Words
from services.search.bounds import MESSAGE_BYTES, fitting
from services.search.collections import Collections, View
from services.search.domain import rules
from services.search.domain.model import Document, Settings, Version
from services.search.ports import Held, Point, Stored
from services.search.state import LEASE_SECONDS, State
from services.search.writing import Writing

_BATCH = 200
# Of vectors that are read, sent or written at once.
_BATCH_BYTES = MESSAGE_BYTES


@dataclass(frozen=True)
class Header:
    """What an exported collection is. ``dimension`` of the full vectors."""

    collection: str
    settings: Settings
    version: Version
    dimension: int


@dataclass(frozen=True)
class Parcel:
    """A document with its passages' vectors; none if the index did not hold it yet."""

    document: Document
    passages: Sequence[Stored]


@dataclass(frozen=True)
class Imported:
    """What became of an import; ``to_embed`` documents came without vectors."""

    view: View
    documents: int
    to_embed: int


class Moving:
    """Exports and imports."""

    def __init__(self, state: State, collections: Collections, writing: Writing) -> None:
        self._state, self._collections, self._writing = state, collections, writing

    async def export(self, name: str) -> tuple[Header, AsyncIterator[Parcel]]:
        """The header, and all documents as the serving index holds them."""
        live = await self._state.find(name)
        index = live.indexer.index
        return Header(name, live.settings, index.version, index.dimension), self._parcels(name)

    async def _parcels(self, name: str) -> AsyncIterator[Parcel]:
        live, after = await self._state.find(name), 0
        with live.indexer.usage.held():
            while documents := await self._writing.page(name, after, _BATCH):
                after = documents[-1].sequence
                held = await live.indexer.vectors.held([document.id for document in documents])
                sizes = [_bytes(document, held, live.indexer.index.dimension) for document in documents]
                while documents:
                    number = fitting(sizes, _BATCH_BYTES)
                    # What no message could hold goes without vectors, and is embedded where it arrives.
                    ids = [d.id for d, size in zip(documents[:number], sizes, strict=False) if 0 < size <= _BATCH_BYTES]
                    stored = await live.indexer.vectors.stored(ids) if ids else {}
                    for document in documents[:number]:
                        yield Parcel(document, stored.get(document.id, []))
                    documents, sizes = documents[number:], sizes[number:]

    async def take_in(self, header: Header, parcels: AsyncIterator[Parcel]) -> Imported:
        """A new collection of what comes; if it does not come whole, there is none."""
        version = header.version
        resolved = await self._state.embedder.resolve("", 0, version.digest)
        if header.dimension != resolved.dimension:
            given = f"is {header.dimension}; {version.model} version {version.number} has {resolved.dimension}"
            raise InvalidArgument(Violation("header.dimensions", given))
        beginning = asyncio.create_task(self._begin(header))
        try:
            await asyncio.shield(beginning)
            done = await self._fill(header, parcels)
            await asyncio.to_thread(self._state.catalog.imported, header.collection)
        except BaseException:
            await self._state.finish(self._undo(header.collection, beginning))
            raise
        self._state.importing.discard(header.collection)
        return done

    async def _begin(self, header: Header) -> None:
        """An empty collection that goes by itself if this process is killed before the rest has come."""
        encoder = ("", 0, header.version.digest)
        await self._collections.begin(header.collection, encoder, header.settings, LEASE_SECONDS)
        self._state.importing.add(header.collection)

    async def _undo(self, collection: str, beginning: "asyncio.Task[None]") -> None:
        await asyncio.wait([beginning])
        if not beginning.exception():  # else there is one of another's, or none
            self._state.importing.discard(collection)
            await asyncio.to_thread(self._state.catalog.keep_importing, [collection], 0.0)
            with contextlib.suppress(NotFound):
                await self._state.delete(collection, abandoned=True)

    async def _fill(self, header: Header, parcels: AsyncIterator[Parcel]) -> Imported:
        documents, to_embed, size, batch = 0, 0, 0, list[Parcel]()
        async for parcel in parcels:
            _check(parcel, documents + len(batch), header)
            batch.append(parcel)
            size += sum(stored.vector.nbytes for stored in parcel.passages)
            if len(batch) == _BATCH or size >= _BATCH_BYTES:
                to_embed += await self._store(header, batch)
                documents, size, batch = documents + len(batch), 0, []
        if batch:
            to_embed += await self._store(header, batch)
        view = await self._collections.view(header.collection)
        return Imported(view, view.documents, to_embed)

    async def _store(self, header: Header, parcels: Sequence[Parcel]) -> int:
        """Vectors first: then the indexer finds that nothing of these documents has to be embedded."""
        indexer = (await self._state.find(header.collection)).indexer
        words = Words(header.settings.bm25) if header.settings.bm25 else None
        # A document that was rewritten while it was exported comes twice: what it was last counts.
        parcels = list({parcel.document.id: parcel for parcel in parcels}.values())
        points: list[Point] = []
        rows: list[Matrix] = []
        for parcel in parcels:
            document = parcel.document
            for stored in sorted(parcel.passages, key=lambda passage: -passage.passage):
                points.append(
                    Point(document.id, 0, document.key, stored.passage, len(parcel.passages), {}, stored.span, None)
                )
                rows.append(stored.vector)
        if points:
            if words:
                by_id = {parcel.document.id: parcel.document.passage for parcel in parcels}
                texts = [
                    by_id[p.document_id][p.span.start : p.span.end] if p.span else by_id[p.document_id] for p in points
                ]
                weights = await asyncio.to_thread(words.documents, texts)
                points = [replace(point, words=weight) for point, weight in zip(points, weights, strict=True)]
            with indexer.usage.held():
                await indexer.vectors.upsert(points, np.stack(rows))
        await self._writing.write(header.collection, [replace(p.document, sequence=0) for p in parcels])
        return sum(not parcel.passages for parcel in parcels)


def _bytes(document: Document, held: Mapping[str, Held], dimension: int) -> int:
    """Of the document's vectors; zero if the index does not hold its text."""
    known = held.get(document.id)
    return known.passages * dimension * 4 if known and known.key == document.key else 0


def _check(parcel: Parcel, number: int, header: Header) -> None:
    """Raise ``InvalidArgument`` for a document that can't be taken."""
    if error := rules.document_error(parcel.document):
        raise InvalidArgument(Violation(f"document[{number}]", error))
    field, dimension = f"document[{number}].passages", header.dimension
    passages, characters = parcel.passages, len(parcel.document.passage)
    if [stored.passage for stored in passages] != list(range(len(passages))):
        raise InvalidArgument(Violation(field, "are not in order, or not whole"))
    if len(passages) > 1 and header.settings.passages is None:
        raise InvalidArgument(Violation(field, "are several, but the settings don't split documents"))
    spans = [stored.span for stored in passages if stored.span]
    if (len(passages) > 1 and len(spans) < len(passages)) or any(s.start >= s.end or s.end > characters for s in spans):
        raise InvalidArgument(Violation(field, f"lie outside of the document's {characters} characters, or nowhere"))
    if any(stored.vector.shape != (dimension,) or not np.isfinite(stored.vector).all() for stored in passages):
        raise InvalidArgument(Violation(field, f"has a vector that is not {dimension} finite numbers"))
