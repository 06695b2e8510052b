"""What search needs from outside, as it would like to have it."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from diapason.vectors import Matrix
from services.search.domain.model import Document, Encoder, Hit, Index, Route, Version


class VectorIndex(Protocol):
    """One physical index. Methods block and may be called from several threads."""

    def upsert(self, documents: Sequence[Document], vectors: Matrix) -> None:
        """Write the documents' vectors (rows × full dimension; compared by cosine), replacing older ones."""

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents; unknown ids are fine."""

    def query(self, vector: Matrix, limit: int, dimensions: int) -> list[Hit]:
        """The nearest documents to one vector (1 × dimensions; zero means the full size), best first."""

    def count(self) -> int:
        """Documents held, exactly."""

    def optimize(self) -> None:
        """Bring the index into its fastest form."""

    def flush(self) -> None:
        """Return once everything written is on disk."""

    def close(self) -> None:
        """Flush and let go of the files."""


class Engine(Protocol):
    """Where indexes live."""

    def open(self, index: Index) -> VectorIndex | None:
        """Open the index; None if it is not there or can't be read."""

    def create(self, index: Index) -> VectorIndex:
        """A new, empty index; what can't be read of an old one is set aside."""

    def keep_only(self, index_ids: Set[str]) -> None:
        """Delete what is left of indexes other than these."""

    def drop(self, index_id: str) -> None:
        """Delete a closed index; an unknown one is fine."""


@dataclass(frozen=True)
class Embedded:
    """Vectors with the version that the embedder says it used. Rows × dimensions."""

    version: Version
    vectors: Matrix
    truncated: list[bool]


class Embedder(Protocol):
    """The embedder service. Errors are ``ServiceError``."""

    async def query(self, version: Version, text: str, dimensions: int) -> Embedded:
        """Embed one query, in the interactive lane."""

    async def documents(self, version: Version, texts: Sequence[str]) -> Embedded:
        """Embed documents, in the bulk lane."""

    async def resolve(self, model: str, number: int, digest: str) -> Encoder:
        """The ready version named, or the newest of a model. Raises ``NotFound``."""


@dataclass(frozen=True)
class Impression:
    """What one search showed."""

    search_id: str
    query: str
    actor: str
    route: Route
    hits: Sequence[Hit]


class Impressions(Protocol):
    """Takes note of what was shown."""

    def record(self, impression: Impression) -> None:
        """Never blocks and never fails; under overload the impression is dropped and counted."""
