"""Documents: written, deleted, read, counted."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from services.kit.errors import FailedPrecondition, ServiceError, Unavailable
from services.search.adapters.documents import Paused, Written
from services.search.domain import filters, rules
from services.search.domain.filters import Filter
from services.search.domain.model import Document
from services.search.indexer import Indexer
from services.search.ports import Held
from services.search.state import Live, State

log = structlog.get_logger()

# How long a write waits to be searchable before it is acknowledged as durable only.
INDEXED_WITHIN_SECONDS = 15.0
# Longer than any switch makes writers wait.
_PAUSED_SECONDS, _PAUSE_POLL_SECONDS = 20.0, 0.02
_DELETE_BATCH = 500


@dataclass(frozen=True)
class Receipt:
    """What became of one document."""

    id: str
    revision: int = 0
    indexed: bool = False
    truncated: bool = False
    error: str = ""
    unchanged: bool = False


class Writing:
    """The documents of all collections."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def write(self, collection: str, documents: Sequence[Document]) -> list[Receipt]:
        """Store documents (or, with ``deleted``, tombstones); a receipt for each, in order."""
        await self._state.find(collection)
        errors = ["" if d.deleted else rules.document_error(d) for d in documents]
        good = [d for d, error in zip(documents, errors, strict=True) if not error]
        written, serving = await self._store(collection, good) if good else ([], "")
        holding = await self._holding(collection, _newest(written), serving)
        held = await _held(holding, [w.document.id for w in written]) if holding and written else {}
        receipts = (_receipt(w, held.get(w.document.id), holding is not None) for w in written)
        return [
            Receipt(document.id, error=error) if error else next(receipts)
            for document, error in zip(documents, errors, strict=True)
        ]

    async def _store(
        self, collection: str, documents: Sequence[Document], up_to: int | None = None
    ) -> tuple[list[Written], str]:
        ends = time.monotonic() + _PAUSED_SECONDS
        while True:
            try:
                stored = await asyncio.to_thread(self._state.documents.write, collection, documents, up_to)
                break
            except Paused:
                if time.monotonic() > ends:
                    raise Unavailable(f"writes to {collection!r} wait for a switch of its route; try again") from None
                await asyncio.sleep(_PAUSE_POLL_SECONDS)
        self._state.written(collection)
        return stored

    async def _holding(self, collection: str, sequence: int, index: str) -> Indexer | None:
        """The index that served at a place in the order of writing, once it holds it; None if that takes too long.

        This process may not have heard yet that it serves: whoever searches here next must find them.
        """
        live = await self._state.find(collection)
        if index and live.route.index != index:
            await self._state.read()
            live = await self._state.find(collection)
        return live.indexer if await live.indexer.wait_for(sequence, INDEXED_WITHIN_SECONDS) else None

    async def delete(self, collection: str, ids: Sequence[str]) -> int:
        """Delete documents by id; returns how many existed."""
        written, serving = await self._store_tombstones(collection, ids)
        await self._holding(collection, _newest(written), serving)
        return sum(w.changed for w in written)

    async def _store_tombstones(
        self, collection: str, ids: Sequence[str], up_to: int | None = None
    ) -> tuple[list[Written], str]:
        await self._state.find(collection)
        return await self._store(collection, [Document(i, "", "", {}, deleted=True) for i in ids], up_to)

    async def delete_where(self, collection: str, where: Filter) -> int:
        """Delete all documents written before now that pass; returns how many."""
        live, newest = await self._settled(collection, where)
        deleted, newest_deleted, serving = 0, 0, ""
        with live.indexer.usage.held():
            ids, after = await live.indexer.vectors.scroll(where, "", _DELETE_BATCH)
            while ids or after:
                # One that was rewritten meanwhile may no longer pass: it stays.
                if ids:
                    written, serving = await self._store_tombstones(collection, ids, newest)
                    deleted += sum(w.changed for w in written)
                    newest_deleted = max(newest_deleted, _newest(written))
                if not after:
                    break
                ids, after = await live.indexer.vectors.scroll(where, after, _DELETE_BATCH)
        await self._holding(collection, newest_deleted, serving)
        return deleted

    async def count(self, collection: str, where: Filter | None) -> int:
        """Documents that exist, or of those, the ones that pass."""
        if where is None:
            await self._state.find(collection)
            return await asyncio.to_thread(self._state.documents.count, collection)
        live, _ = await self._settled(collection, where)
        with live.indexer.usage.held():
            return await live.indexer.vectors.count(where)

    async def _settled(self, collection: str, where: Filter) -> tuple[Live, int]:
        """The serving index once it holds all that was written, and what that was."""
        live = await self._state.find(collection)
        check_filter(live, where)
        newest = await asyncio.to_thread(self._state.documents.last_sequence, collection)
        if not await live.indexer.wait_for(newest, INDEXED_WITHIN_SECONDS):
            raise Unavailable(f"the index of {collection!r} does not hold the latest writes yet; try again")
        return live, newest

    async def documents(self, collection: str, ids: Sequence[str]) -> dict[str, Document]:
        """Those of the documents that exist."""
        await self._state.find(collection)
        return await asyncio.to_thread(self._state.documents.existing, collection, list(ids))

    async def page(self, collection: str, after: int, size: int) -> list[Document]:
        """The documents after a place in the order of writing."""
        await self._state.find(collection)
        return await asyncio.to_thread(self._state.documents.after, collection, after, size, False)

    async def page_where(self, collection: str, where: Filter, after: str, size: int) -> tuple[list[Document], str]:
        """The documents that pass, in the engine's order, and where to go on; empty at the end."""
        live = await self._state.find(collection)
        check_filter(live, where)
        with live.indexer.usage.held():
            ids, following = await live.indexer.vectors.scroll(where, after, size)
        found = await self.documents(collection, ids)
        return [found[i] for i in ids if i in found], following


def check_filter(live: Live, where: Filter) -> None:
    """Raise ``InvalidArgument`` or ``FailedPrecondition`` unless the serving index can answer it."""
    filters.check(where, live.settings.fields)
    if not live.indexer.has_fields(filters.used(where)):
        raise FailedPrecondition(
            "FIELD_NOT_READY",
            live.route.collection,
            f"{live.route.collection!r} is still taking in a field declared lately; try again soon",
        )


def _newest(written: Sequence[Written]) -> int:
    return max((w.document.sequence for w in written), default=0)


async def _held(serving: Indexer, ids: Sequence[str]) -> dict[str, Held]:
    """What the index holds of documents, whichever process has put it there."""
    try:
        with serving.usage.held():
            return await serving.vectors.held(ids)
    except ServiceError:  # they are written, whatever became of the index
        log.exception("receipts can't tell what is indexed")
        return {}


def _receipt(written: Written, held: Held | None, caught_up: bool) -> Receipt:
    document = written.document
    return Receipt(
        document.id,
        document.revision,
        # What can't be embedded is left out.
        indexed=caught_up and (held is not None or document.deleted),
        truncated=held is not None and held.truncated,
        unchanged=not written.changed,
    )
