"""What a report shows beyond the scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder, SentenceTransformer

from diapason.evaluation.metrics import ndcg
from services.trainer.domain.data import Judged
from services.trainer.domain.metrics import DEPTH
from services.trainer.process.evaluating import Space

# Queries that gained most, and that lost most; documents of each; of each document so much.
_QUERIES, _DOCUMENTS, _CHARACTERS = 10, 3, 80
_PERCENTILES = (5, 25, 50, 75, 95)
# Of so many texts lengths are measured.
_LENGTHS = 2_000


def lengths(model: SentenceTransformer | CrossEncoder, texts: Sequence[str]) -> list[float] | None:
    """Percentiles of the number of tokens: the 5th, 25th, 50th, 75th and 95th. None without texts."""
    if not texts:
        return None
    some = texts[:: max(1, len(texts) // _LENGTHS)]
    counts = [len(ids) for ids in model.tokenizer(list(some), truncation=False, verbose=False)["input_ids"]]
    return [float(value) for value in np.percentile(counts, _PERCENTILES)]


def shown(judged: Sequence[Judged], before: Space, after: Space, texts: Mapping[str, str]) -> dict[str, Any]:
    """What the queries found that gained and lost most, and the share of the first ten that anybody had judged."""
    full = before.documents.shape[1]
    return told(judged, before.ranked(full), after.ranked(full), texts)


def told(
    judged: Sequence[Judged], old: Sequence[Sequence[str]], new: Sequence[Sequence[str]], texts: Mapping[str, str]
) -> dict[str, Any]:
    """The same of what was found, best first, before and after."""
    gains = [
        ndcg(there, one.relevant, DEPTH) - ndcg(here, one.relevant, DEPTH)
        for one, here, there in zip(judged, old, new, strict=True)
    ]
    # As the report ranks them, so that of equal gains it shows those that have texts.
    order = sorted(range(len(judged)), key=lambda i: -gains[i])
    chosen = dict.fromkeys([*order[:_QUERIES], *order[::-1][:_QUERIES]])

    def first(ids: Sequence[str]) -> list[str]:
        return [texts[name].partition("\n")[0][:_CHARACTERS] for name in ids[:_DOCUMENTS]]

    found: dict[str, Any] = {
        "shown": {
            judged[i].query: {"before": first(old[i]), "after": first(new[i]), "relevant": first([*judged[i].relevant])}
            for i in chosen
        }
    }
    if judged:
        found["judged@10"] = {"before": _judged(judged, old), "after": _judged(judged, new)}
    return found


def opinions(judged: Sequence[Judged], space: Space) -> dict[str, list[float]]:
    """Cosines of queries with documents that people liked and did not like."""
    place = {name: i for i, name in enumerate(space.ids)}
    found: dict[str, list[float]] = {"liked": [], "disliked": []}
    for one, query in zip(judged, space.queries, strict=True):
        for kind, names in (("liked", list(one.relevant)), ("disliked", one.refused)):
            found[kind] += [float(query @ space.documents[place[name]]) for name in names if name in place]
    return found


def _judged(judged: Sequence[Judged], ranked: Sequence[Sequence[str]]) -> float:
    shares = [len(one.targets.keys() & set(ids)) / DEPTH for one, ids in zip(judged, ranked, strict=True)]
    return float(np.mean(shares))
