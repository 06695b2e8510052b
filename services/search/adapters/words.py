"""BM25, the same for every engine: texts to weights of words.

The engine multiplies them with each word's rarity (Robertson-Spärck Jones IDF) over all points it
holds; here are the term-frequency part, tokenization, stop words and stems (Snowball).
"""

from collections.abc import Sequence

import qdrant_edge as qdrant

from services.kit.errors import InvalidArgument, Violation
from services.search.domain.model import Bm25
from services.search.ports import Sparse

# k1 and b as Robertson and Zaragoza (2009) give them for most collections, and Lucene by default.
_K1, _B = 1.2, 0.75


class Words:
    """Weighs words for one collection's settings. Safe to use from several threads."""

    def __init__(self, settings: Bm25) -> None:
        config = qdrant.Bm25Config(k=_K1, b=_B, avg_len=settings.average_words, language=settings.language)
        try:
            self._bm25 = qdrant.Bm25(config)
        except ValueError as error:
            raise InvalidArgument(
                Violation("settings.bm25.language", f"is {settings.language!r}; use one such as 'english' or 'german'")
            ) from error

    def query(self, text: str) -> Sparse:
        """Each word of a query once."""
        return _sparse(self._bm25.embed_query(text))

    def documents(self, texts: Sequence[str]) -> list[Sparse]:
        """Term frequencies, saturated and normalized by length."""
        return [_sparse(self._bm25.embed_document(text)) for text in texts]


def _sparse(vector: qdrant.SparseVector) -> Sparse:
    return Sparse(list(vector.indices), list(vector.values))
