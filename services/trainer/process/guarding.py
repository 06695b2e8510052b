"""The guard set: judged queries with documents of their own, on which a candidate must not have become worse."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.trainer.domain.data import Judged
from services.trainer.process.encoding import Encoder
from services.trainer.process.evaluating import Scores, Space, scores
from services.trainer.process.spec import GUARD, GUARD_CORPUS, read_lines


@dataclass(frozen=True)
class Guard:
    """Its queries with their relevant documents, and its documents by their ids."""

    judged: Sequence[Judged]
    texts: dict[str, str]

    def seen_by(self, encode: Encoder) -> Space:
        """As a model sees it."""
        queries = encode([one.query for one in self.judged], "query")
        return Space(queries, encode(list(self.texts.values()), "document"), list(self.texts))

    def scores(self, space: Space, sizes: Sequence[int]) -> Scores:
        """Of each query at each size."""
        return scores({one.query: one.relevant for one in self.judged}, space.ranked, sizes)


def read(folder: Path) -> Guard | None:
    """The guard set in a run's folder, if the gate has one."""
    if not (folder / GUARD).exists():
        return None
    texts = {document["id"]: document["text"] for document in read_lines(folder / GUARD_CORPUS)}
    judged = [Judged(**one) for one in read_lines(folder / GUARD)]
    return Guard([one for one in judged if one.relevant], texts)
