"""What a reranker and what it would replace make of held-out queries."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sentence_transformers import CrossEncoder

from services.trainer.domain import pairs as comparing
from services.trainer.domain.data import Judged
from services.trainer.domain.metrics import DEPTH
from services.trainer.domain.model import Kind
from services.trainer.process import detailing, evaluating, loading, scoring
from services.trainer.process.firststage import Pool
from services.trainer.process.material import Material, telling
from services.trainer.process.spec import Spec, say

# Rankings have no dimensions where there are no vectors.
NO_SIZE = 0


@dataclass(frozen=True)
class Judge:
    """What orders held-out documents: scores on its own scale by query and id, and the same between 0 and 1.

    ``share`` of the order is the first stage's.
    """

    scores: Mapping[str, Mapping[str, float]]
    likely: Mapping[str, Mapping[str, float]]
    share: float


def scored(
    model: CrossEncoder,
    asked: Sequence[Judged],
    found: Mapping[str, Pool],
    texts: Mapping[str, str],
    *,
    judged: bool,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, dict[str, float]]:
    """For each query the scores of its pool, and with ``judged`` also of what was judged beyond it."""
    names = {one.query: list(found[one.query].cosines if judged else found[one.query].first) for one in asked}
    every = [(query, name) for query, some in names.items() for name in some]
    scores = iter(scoring.scores(model, [(query, texts[name]) for query, name in every], progress))
    return {query: {name: next(scores) for name in some} for query, some in names.items()}


def judges_of(
    model: CrossEncoder, share: float, spec: Spec, material: Material, found: Mapping[str, Pool]
) -> tuple[Judge, Judge]:
    """What orders held-out documents now, and the candidate, which leaves a ``share`` to the first stage."""
    started = time.monotonic()

    def of(one: CrossEncoder, share: float, message: str, begins: float) -> Judge:
        say(stage="evaluate", progress=begins, message=f"{message} on the held-out queries")
        tell = telling("evaluate", begins, begins + 0.5)
        scores = scored(one, material.held_out, found, material.texts, judged=True, progress=tell)
        likely = {q: dict(zip(some, scoring.likely(one, [*some.values()]), strict=True)) for q, some in scores.items()}
        return Judge(scores, likely, share)

    if spec.current:
        current = loading.load(spec.current, Kind.RERANKER)
        before = of(current, spec.current_share, "the reranker that serves", 0.0)
    else:
        cosines = {one.query: dict(found[one.query].cosines) for one in material.held_out}
        likely = {q: {name: min(1.0, max(0.0, c)) for name, c in some.items()} for q, some in cosines.items()}
        before = Judge(cosines, likely, 0.0)
    after = of(model, share, "the candidate", 0.5)
    material.seconds["evaluate"] = time.monotonic() - started
    return before, after


def measured(
    judges: tuple[Judge, Judge], material: Material, found: Mapping[str, Pool]
) -> tuple[dict[str, evaluating.Scores], dict[str, Any]]:
    """Rankings before and after of what a search would rerank, and what a report shows of them."""
    asked = {one.query: one.relevant for one in material.held_out}
    before, after = (
        [found[one.query].reranked(judge.scores[one.query], judge.share)[:DEPTH] for one in material.held_out]
        for judge in judges
    )
    scores = {
        "before": evaluating.scores(asked, lambda size: before, [NO_SIZE]),
        "after": evaluating.scores(asked, lambda size: after, [NO_SIZE]),
    }
    return scores, detailing.told(material.held_out, before, after, material.texts)


def held_out_pairs(judges: tuple[Judge, Judge], material: Material, found: Mapping[str, Pool]) -> comparing.Pairs:
    """Held-out pairs that were judged; if nobody refused anything, what was not judged in the pools stands against."""
    refusals = any(one.refused for one in material.held_out)
    queries, labels, names = [], [], []
    for place, one in enumerate(material.held_out):
        liked = one.relevant
        against = one.refused if refusals else [name for name in found[one.query].first if name not in one.targets]
        for name in (*liked, *against):
            queries.append(place)
            labels.append(int(name in liked))
            names.append((one.query, name))
    before, after = ([judge.likely[query][name] for query, name in names] for judge in judges)
    return comparing.Pairs(queries, labels, before, after)


def split(pairs: comparing.Pairs) -> dict[str, dict[str, list[float]]]:
    """The scores of pairs by what people said of them, before and after."""

    def of(scores: Sequence[float]) -> dict[str, list[float]]:
        both = list(zip(pairs.labels, scores, strict=True))
        return {
            "liked": [score for label, score in both if label],
            "disliked": [score for label, score in both if not label],
        }

    return {"before": of(pairs.before), "after": of(pairs.after)}
