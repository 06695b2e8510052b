"""What search needs from outside, as it would like to have it."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from diapason.vectors import Matrix
from services.kit.errors import Unavailable
from services.search.domain.filters import Filter
from services.search.domain.model import Encoder, FieldType, Hit, Index, Route, Span, Version


@dataclass(frozen=True)
class Sparse:
    """Weights of words, by the hash of each."""

    indices: list[int]
    values: list[float]


@dataclass(frozen=True)
class Point:
    """One passage of a document on its way into an index.

    ``key`` and ``passages`` (how many the document has) tell later whether it must be embedded
    again. A point of a higher ``sequence`` is never overwritten by one of a lower.
    """

    document_id: str
    sequence: int
    key: str
    passage: int
    passages: int
    fields: Mapping[str, Any]
    span: Span | None = None
    words: Sparse | None = None
    # Whether the encoder could not read all of it.
    truncated: bool = False


@dataclass(frozen=True)
class Held:
    """What an index holds of a document."""

    key: str
    passages: int
    truncated: bool = False


@dataclass(frozen=True)
class Stored:
    """A passage as an index holds it: its vector has the full size (dimension,)."""

    passage: int
    span: Span | None
    vector: Matrix


class Fusion(Enum):
    """How the two lists of a hybrid search become one."""

    RECIPROCAL_RANK = "reciprocal_rank"
    DISTRIBUTION_BASED = "distribution_based"


@dataclass(frozen=True)
class Query:
    """One question to an index: by a vector (1 × full size), by words, or by both, fused."""

    limit: int
    vector: Matrix | None = None
    words: Sparse | None = None
    # Zero for full vectors. `first_stage`: candidates at that size, ordered by `dimensions`.
    dimensions: int = 0
    first_stage: int = 0
    fusion: Fusion = Fusion.DISTRIBUTION_BASED
    filter: Filter | None = None
    threshold: float | None = None
    exact: bool = False


class IndexGone(Unavailable):
    """The index was there and no longer is: another process dropped it. Read the route again."""


class VectorIndex(Protocol):
    """One physical index. Calls may overlap, except that one caller alone writes."""

    async def upsert(self, points: Sequence[Point], vectors: Matrix) -> None:
        """Write points with their vectors (rows × full dimension), replacing older ones."""

    async def refresh(self, points: Sequence[Point]) -> None:
        """Give documents that are there already a new sequence and new fields; vectors stay.

        One point stands for all ``passages`` of its document. Unknown ones are fine.
        """

    async def delete(self, documents: Mapping[str, tuple[int, int]], up_to: int) -> None:
        """Remove passages of documents: from the first number to before the second. Unknown ones are fine.

        Those of a higher sequence than ``up_to`` stay: someone wrote them who knew more.
        """

    async def held(self, ids: Sequence[str]) -> dict[str, Held]:
        """What there is of these documents."""

    async def stored(self, ids: Sequence[str]) -> dict[str, list[Stored]]:
        """The passages of these documents with their vectors, in order."""

    async def query(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """The best passages for each query, best first."""

    async def count(self, where: Filter | None = None) -> int:
        """Documents held, exactly; with a filter, those that pass it."""

    async def points(self) -> int:
        """Points held, exactly."""

    async def scroll(self, where: Filter | None, after: str, limit: int) -> tuple[list[str], str]:
        """Ids of documents that pass, in an order of the engine's own, and where to go on; empty at the end."""

    async def declare(self, fields: Mapping[str, FieldType]) -> None:
        """Make fields fast to filter by."""

    async def optimize(self) -> bool:
        """Bring the index into its fastest form; True once it is in it."""

    async def flush(self) -> None:
        """Return once everything written is on disk."""

    async def close(self) -> None:
        """Flush and let go of what is open."""


class Engine(Protocol):
    """Where indexes live."""

    # Whether several processes may use one index; False: it lies in a folder of this one.
    shared: bool
    # Names this process to the catalog; the same after a restart where the indexes are its own.
    owner: str

    async def open(self, index: Index) -> VectorIndex | None:
        """Open the index; None if it is not there or can't be read."""

    async def create(self, index: Index) -> VectorIndex:
        """A new, empty index; what can't be read of an old one is set aside."""

    async def keep_only(self, index_ids: Set[str]) -> None:
        """Delete what is left of indexes other than these, where that is safe to tell."""

    async def drop(self, index_id: str) -> None:
        """Delete a closed index; an unknown one is fine."""

    async def free_bytes(self) -> int:
        """Room for more on disk; zero where that can't be told."""

    async def close(self) -> None:
        """Let go of everything."""


@dataclass(frozen=True)
class Embedded:
    """Vectors with the version that the embedder says it used. Rows × dimensions."""

    version: Version
    vectors: Matrix
    truncated: list[bool]


@dataclass(frozen=True)
class EmbeddedDocuments:
    """Vectors of the texts that are not in ``failures`` (by position, with the reason), in order."""

    version: Version
    vectors: Matrix
    truncated: list[bool]
    failures: Mapping[int, str]


@dataclass(frozen=True)
class Scored:
    """A reranker's score of each text, and how much of the final order its version leaves to the first stage."""

    scores: Sequence[float]
    first_stage_share: float = 0.0


class Embedder(Protocol):
    """The embedder service. Errors are ``ServiceError``."""

    async def queries(self, version: Version, texts: Sequence[str]) -> Embedded:
        """Embed queries at full size, in the interactive lane."""

    async def documents(self, version: Version, texts: Sequence[str]) -> EmbeddedDocuments:
        """Embed documents at full size, in the bulk lane."""

    async def split(self, version: Version, texts: Sequence[str], max_tokens: int, overlap: int) -> list[list[Span]]:
        """Cut texts into passages."""

    async def rerank(self, version: Version, query: str, texts: Sequence[str], seconds: float) -> Scored:
        """Score texts for a query; raises within ``seconds`` if they can't be had by then."""

    async def resolve(self, model: str, number: int, digest: str) -> Encoder:
        """The ready encoder version named, or the newest of a model. Raises ``NotFound``."""

    async def resolve_reranker(self, model: str, number: int, digest: str) -> Version:
        """The ready reranker version named, or the newest of a model. Raises ``NotFound``."""


@dataclass(frozen=True)
class Impression:
    """What one search showed."""

    search_id: str
    query: str
    actor: str
    route: Route
    hits: Sequence[Hit]
    first_rank: int = 1


class Impressions(Protocol):
    """Takes note of what was shown."""

    def record(self, impression: Impression) -> None:
        """Never blocks and never fails; under overload the impression is dropped and counted."""
