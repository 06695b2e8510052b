"""The guard set: judged queries with documents of their own, on which a candidate must not have become worse.

Half of them steer how much of an encoder's training is kept, the others are the gate's: what was chosen by a query
can't be judged by it (I9). A reranker's gate has all of them, since they choose nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from services.trainer.domain.data import Judged, parted_guard
from services.trainer.domain.gate import DECIDING_METRIC
from services.trainer.process import loading
from services.trainer.process.encoding import Encoder, Plain, encoder
from services.trainer.process.evaluating import Scores, Space, scores
from services.trainer.process.mixing import Forgetting
from services.trainer.process.spec import GUARD, GUARD_CORPUS, Spec, read_lines, say


@dataclass(frozen=True)
class Guard:
    """Queries with their relevant documents, those that steer and those of the gate; and documents by their ids."""

    steering: Sequence[Judged]
    judged: Sequence[Judged]
    texts: dict[str, str]

    def scores(self, asked: Sequence[Judged], encode: Encoder | Plain, sizes: Sequence[int]) -> Scores:
        """Of each query at each size, as a model ranks all documents."""
        queries = encode([one.query for one in asked], "query")
        space = Space(queries, encode(list(self.texts.values()), "document"), list(self.texts))
        return scores({one.query: one.relevant for one in asked}, space.ranked, sizes)

    def forgetting(self, model: SentenceTransformer, spec: Spec, sizes: Sequence[int]) -> Forgetting | None:
        """What the model has lost against the version that serves, at the size where it lost most; by what steers."""
        if not self.steering:
            return None

        def means(of: SentenceTransformer) -> list[float]:
            found = self.scores(self.steering, encoder(of, len(self.texts)), sizes)
            return [float(np.mean(found[size][DECIDING_METRIC])) for size in sizes]

        served = means(loading.load(spec.current))

        def difference() -> float:
            say(stage="train", message="what a mix has forgotten of the guard set")
            return min(now - before for now, before in zip(means(model), served, strict=True))

        return Forgetting(difference, spec.guard_margin)


def read(folder: Path) -> Guard | None:
    """The guard set in a run's folder, if the gate has one."""
    if not (folder / GUARD).exists():
        return None
    texts = {document["id"]: document["text"] for document in read_lines(folder / GUARD_CORPUS)}
    judged = [Judged(**one) for one in read_lines(folder / GUARD)]
    return Guard(*parted_guard([one for one in judged if one.relevant]), texts)
