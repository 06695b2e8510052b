"""What the encoder that serves brings for each judged query, before a reranker puts it in order."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diapason.blending import blended
from diapason.vectors import Matrix
from services.trainer.domain.data import Judged
from services.trainer.process import loading
from services.trainer.process.encoding import Encoder
from services.trainer.process.material import Material, telling
from services.trainer.process.mining import mine

# As many as a search reranks that does not say how many (docs/search.md).
DEPTH = 50


@dataclass(frozen=True)
class Pool:
    """A query's first documents, best first, and the cosines of these and of all that were judged."""

    first: tuple[str, ...]
    cosines: Mapping[str, float]
    # Of the first those that were not judged and look less relevant than what is known to be, hardest first.
    mined: Sequence[str]

    def cut(self, relevant: Collection[str], depth: int) -> "Pool":
        """So many of the first, those that are relevant among them, in their order."""
        others = [name for name in self.first if name not in relevant]
        dropped = set(others[max(0, depth - (len(self.first) - len(others))) :])
        return replace(self, first=tuple(name for name in self.first if name not in dropped))

    def reranked(self, scores: Mapping[str, float], share: float) -> list[str]:
        """The first ones by a reranker's scores, with a share of their own order; equal ones as they were."""
        final = blended([self.cosines[name] for name in self.first], [scores[name] for name in self.first], share)
        placed = dict(zip(self.first, final, strict=True))
        return sorted(self.first, key=lambda name: -placed[name])


def pools(encoder: str, material: Material) -> dict[str, Pool]:
    """Of every judged query, over the whole collection, by the folder of the encoder's weights."""
    encode = Encoder(loading.load(encoder))
    corpus = encode(list(material.texts.values()), "document", telling("train", 0.0, 0.0))
    judged = [*material.train, *material.validation, *material.held_out]
    vectors = encode([one.query for one in judged], "query")
    place = {name: i for i, name in enumerate(material.ids)}
    return {
        one.query: _pool(one, vector, corpus, material.ids, place) for one, vector in zip(judged, vectors, strict=True)
    }


def _pool(one: Judged, vector: Matrix, corpus: Matrix, ids: Sequence[str], place: Mapping[str, int]) -> Pool:
    scores = corpus @ vector
    first = [ids[i] for i in np.argsort(-scores, kind="stable")[:DEPTH]]
    known = list(dict.fromkeys((*first, *(name for name in one.targets if name in place))))
    mined = mine([one], vector[None], known, corpus[[place[name] for name in known]])[one.query]
    return Pool(tuple(first), {name: float(scores[place[name]]) for name in known}, mined)
