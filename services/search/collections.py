"""Collections: made, changed, deleted, looked at."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.kit.errors import NotFound
from services.search.adapters.words import Words
from services.search.domain import rules
from services.search.domain.model import Encoder, FieldType, Index, Route, Settings
from services.search.state import State


@dataclass(frozen=True)
class View:
    """A collection as it stands; indexes with the points they hold."""

    name: str
    settings: Settings
    route: Route
    documents: int
    indexes: Sequence[tuple[Index, int]]


class Collections:
    """All collections."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def create(self, name: str, encoder: tuple[str, int, str], settings: Settings) -> View:
        """A new, empty collection under a version that the embedder holds."""
        await self.begin(name, encoder, settings)
        return await self.view(name)

    async def begin(
        self, name: str, encoder: tuple[str, int, str], settings: Settings, importing: float | None = None
    ) -> None:
        """The same, for whoever goes on from there; with ``importing`` it is deleted if they don't, after seconds."""
        rules.check_name(name)
        resolved = await self._state.embedder.resolve(*encoder)
        rules.check_settings(settings, resolved)
        if settings.bm25:
            Words(settings.bm25)  # refuses a language that it does not know
        await self._state.finish(self._create(name, settings, resolved, importing))

    async def _create(self, name: str, settings: Settings, encoder: Encoder, importing: float | None) -> None:
        await asyncio.to_thread(self._state.catalog.create_collection, name, settings, encoder, importing)
        await self._state.read()

    async def update(self, name: str, retention: float | None, fields: Mapping[str, FieldType]) -> View:
        """Change the retention, declare further fields."""
        live = await self._state.find(name)
        rules.check_update(retention, live.settings.fields, fields)
        await self._state.finish(self._update(name, retention, fields))
        return await self.view(name)

    async def _update(self, name: str, retention: float | None, fields: Mapping[str, FieldType]) -> None:
        await asyncio.to_thread(self._state.catalog.update_collection, name, retention, fields)
        await self._state.read()

    async def delete(self, name: str) -> int:
        """Delete a collection with all it has; returns how many documents that were."""
        await self._state.find(name)
        return await self._state.finish(self._state.delete(name))

    async def view(self, name: str) -> View:
        """A collection with counts. Raises ``NotFound``."""
        live = await self._state.find(name)
        held = []
        for index in await asyncio.to_thread(self._state.catalog.indexes, name):
            if indexer := self._state.indexers.get(index.id):
                with indexer.usage.held():
                    held.append((index, await indexer.vectors.points()))
        documents = await asyncio.to_thread(self._state.documents.count, name)
        return View(name, live.settings, live.route, documents, held)

    async def views(self) -> list[View]:
        """All of them, but for those that are deleted meanwhile."""
        views = []
        for name in self._state.names():
            with contextlib.suppress(NotFound):
                views.append(await self.view(name))
        return views
