"""The things search is about."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any


@dataclass(frozen=True)
class Version:
    """The full name of an encoder version."""

    model: str
    number: int
    digest: str


@dataclass(frozen=True)
class Encoder:
    """An encoder version with what an index needs to know of it."""

    version: Version
    dimension: int
    dimensions: tuple[int, ...]


@dataclass(frozen=True)
class Settings:
    """A collection's settings. ``dimensions`` below the full one; ``retention`` in seconds."""

    dimensions: tuple[int, ...] = ()
    retention: float = 3600.0


@dataclass(frozen=True)
class Document:
    """One document as stored. ``sequence`` is its place in the collection's order of writing."""

    id: str
    text: str
    title: str
    payload: Mapping[str, Any]
    revision: int = 0
    sequence: int = 0
    deleted: bool = False

    @property
    def passage(self) -> str:
        """The text as the encoder reads it."""
        return f"{self.title}\n{self.text}" if self.title else self.text


class IndexState(Enum):
    """Where an index is in its life."""

    BUILDING = "building"
    CAUGHT_UP = "caught_up"
    SERVING = "serving"
    RETAINED = "retained"
    DROPPED = "dropped"


@dataclass(frozen=True)
class Index:
    """The vectors of one collection under one encoder version.

    It is a view of the collection's documents: everything up to ``applied`` in the order of
    writing is in it, and whoever maintains it goes on from there.
    """

    id: str
    collection: str
    version: Version
    dimension: int
    dimensions: tuple[int, ...]
    state: IndexState
    applied: int
    drop_at: datetime | None = None


@dataclass(frozen=True)
class Route:
    """What serves a collection: read once per request, replaced whole (I2)."""

    collection: str
    generation: int
    version: Version
    index: str
    since: datetime


class ReindexState(Enum):
    """How a reindex stands."""

    RUNNING = "running"
    CAUGHT_UP = "caught_up"
    SWITCHED = "switched"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Reindex:
    """The building of one index. ``total`` and ``done`` count documents."""

    id: str
    collection: str
    index: str
    version: Version
    state: ReindexState
    total: int
    done: int


@dataclass(frozen=True)
class Hit:
    """A document that the engine found, with its cosine similarity."""

    document_id: str
    score: float
