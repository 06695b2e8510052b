"""The things search is about."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import cached_property
from hashlib import blake2b
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Version:
    """The full name of a model's version."""

    model: str
    number: int
    digest: str


@dataclass(frozen=True)
class Encoder:
    """An encoder version with what an index needs to know of it."""

    version: Version
    dimension: int
    dimensions: tuple[int, ...]
    max_tokens: int = 0


class Distance(Enum):
    """How two vectors are compared."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLID = "euclid"


class Quantization(Enum):
    """How vectors are compressed in memory."""

    NONE = "none"
    INT8 = "int8"
    BINARY = "binary"
    TURBO = "turbo"


class FieldType(Enum):
    """What a declared field of the payload holds."""

    KEYWORD = "keyword"
    INTEGER = "integer"
    FLOAT = "float"
    BOOL = "bool"
    DATETIME = "datetime"
    TEXT = "text"


@dataclass(frozen=True)
class Bm25:
    """How words are weighed. ``average_words`` in a usual passage."""

    language: str = "english"
    average_words: float = 256.0


@dataclass(frozen=True)
class Passages:
    """How long documents are split, in tokens. Zero ``max_tokens``: what the encoder reads."""

    max_tokens: int = 0
    overlap_tokens: int = 0


@dataclass(frozen=True)
class Settings:
    """A collection's settings. ``dimensions`` below the full one; ``retention`` in seconds."""

    dimensions: tuple[int, ...] = ()
    retention: float = 3600.0
    distance: Distance = Distance.COSINE
    quantization: Quantization = Quantization.NONE
    bm25: Bm25 | None = None
    passages: Passages | None = None
    fields: Mapping[str, FieldType] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Document:
    """One document as stored. ``sequence`` is its place in the collection's order of writing.

    In a write, ``revision`` is zero for the next one, or the caller's own.
    """

    id: str
    text: str
    title: str
    payload: Mapping[str, Any]
    revision: int = 0
    sequence: int = 0
    deleted: bool = False

    @cached_property
    def passage(self) -> str:
        """The text as the encoder reads it."""
        return f"{self.title}\n{self.text}" if self.title else self.text

    @cached_property
    def key(self) -> str:
        """The same for equal texts only: what need not be embedded again."""
        return blake2b(self.passage.encode(), digest_size=12).hexdigest()


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
    writing is in it, and whoever maintains it goes on from there. ``fields`` are those of the
    payload that all its points have.
    """

    id: str
    collection: str
    version: Version
    dimension: int
    settings: Settings
    state: IndexState
    applied: int
    fields: frozenset[str] = frozenset()
    drop_at: datetime | None = None
    # Documents in a second at most, while it is being built; zero for no bound.
    max_rate: float = 0.0


@dataclass(frozen=True)
class Route:
    """What serves a collection: read once per request, replaced whole (I2)."""

    collection: str
    generation: int
    version: Version
    index: str
    since: datetime
    reranker: Version | None = None


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
    rate: float = 0.0


@dataclass(frozen=True)
class Span:
    """Where a passage lies in its document's text: characters, ``end`` not included."""

    start: int
    end: int


@dataclass(frozen=True)
class Hit:
    """A passage that the engine found. A higher score is nearer, whatever the distance."""

    document_id: str
    score: float
    passage: int = 0
    span: Span | None = None
    # Of the document's text as the index has it; it may have a newer one meanwhile.
    key: str = ""
