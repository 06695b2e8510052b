"""The tuning of a reranker from its files to a candidate with its scores."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, LambdaLoss, RankNetLoss
from torch.nn import Module

from services.trainer.domain import pairs as comparing
from services.trainer.domain import reranking as choices
from services.trainer.domain.data import Judged
from services.trainer.domain.examples import resampled
from services.trainer.domain.gate import DECIDING_METRIC
from services.trainer.domain.model import Kind
from services.trainer.domain.recipes import AUTO
from services.trainer.process import detailing, evaluating, exporting, guarding, judging, loading, mixing
from services.trainer.process.firststage import DEPTH, Pool, pools
from services.trainer.process.judging import NO_SIZE
from services.trainer.process.material import Material, fix_chance
from services.trainer.process.spec import CANDIDATE, DETAILS, RESULT, JobError, Spec, is_first, say, write_json
from services.trainer.process.training import train

# Lists of a batch go through the model together: their number is bounded by their pairs.
_TOGETHER = -1
LOSSES: Mapping[str, Callable[[CrossEncoder], Module]] = {
    "bce": BinaryCrossEntropyLoss,
    "ranknet": lambda model: RankNetLoss(model, mini_batch_size=_TOGETHER),
    "lambda": lambda model: LambdaLoss(model, mini_batch_size=_TOGETHER),
}
# A pair is cut to so many tokens while it is trained on: more cost time, and the beginning tells most.
_MAX_TOKENS = 192
# After each epoch so many validation queries are asked, of so many documents each: on two cores that is seconds,
# where all of them would take longer than the training.
_STEERING, _STEERING_DEPTH = 40, 15
# Then so many of them, of all that a search would rerank, say how much of the order stays the first stage's.
_BLENDING = 100
# What is tried. All of it would be no reranker; between is where neither is to be relied on alone.
SHARES = tuple(tenths / 10 for tenths in range(10))
_UNSTEERED_SHARE = 0.5
# As a report calls what was chosen.
SHARE = "share of the order left to the encoder"
# Each held-out query is as many pairs as a search reranks; more queries than this cost more than they tell.
_MOST_HELD_OUT = 400
_MOST_GUARD = 100


@dataclass(frozen=True)
class Rows:
    """What a loss reads: the examples in them, rows of one batch, and the columns."""

    examples: int
    batch: int
    data: Dataset


def tune(spec: Spec, folder: Path) -> None:
    """Leave the candidate, its scores beside those of what serves, and the details of how it came about."""
    fix_chance(spec.seed)
    material = Material.read(folder)
    material.held_out = _some(material.held_out, _MOST_HELD_OUT)
    started = time.monotonic()
    say(stage="train", progress=0.0, message="finding what the encoder brings for each query")
    found = pools(spec.encoder, material)
    model = loading.load(spec.base, Kind.RERANKER)
    name = choices.choose(material.train) if spec.recipe == AUTO else spec.recipe
    rows = prepared(name, material, found, spec)
    epochs, rate = choices.schedule(rows.examples)
    spec = replace(spec, epochs=spec.epochs or epochs, learning_rate=spec.learning_rate or rate)
    before = mixing.weights_of(model)
    with _shortened(model):
        validate = _validation(model, material, found, spec)
        in_rows = replace(spec, batch_size=rows.batch)
        loss, documents = LOSSES[name](model), len(material.ids)
        curves = train(model, in_rows, folder, rows.data, loss, validate, inputs=spec.batch_size, documents=documents)
        if not is_first():
            return
        kept, tried = mixing.mix(model, before, validate)
    say(stage="train", message="how much of the order to leave to the encoder")
    share, blends = _blended(model, material, found)
    material.seconds["train"] = time.monotonic() - started
    judges = judging.judges_of(model, share, spec, material, found)
    measured, shown = judging.measured(judges, material, found)
    say(stage="export", progress=0.0, message="the candidate to OpenVINO")
    exporting.export(model, [], folder / CANDIDATE, share)
    compared = judging.held_out_pairs(judges, material, found)
    result = {**measured, "comparisons": [asdict(one) for one in comparing.compare(compared)]}
    result["judged@10"] = shown.get("judged@10", {})
    guarded = _guarded(model, share, spec, folder)
    if guarded:
        result["guard"] = guarded
    details = {
        "kind": Kind.RERANKER.value,
        "data": {
            "recipe": name,
            "train_queries": len(material.train),
            "validation_queries": len(material.validation),
            "held_out_queries": len(material.held_out),
            "documents": len(material.ids),
            "policy": material.policy,
            "query_tokens": detailing.lengths(model, [one.query for one in (*material.train, *material.held_out)]),
            "document_tokens": detailing.lengths(model, list(material.texts.values())),
        },
        "config": {
            "recipe": name,
            "examples": rows.examples,
            "negatives": spec.negatives,
            "epochs": spec.epochs,
            "batch size": spec.batch_size,
            "learning rate": spec.learning_rate,
            "seed": spec.seed,
            "reranks the first": DEPTH,
            "kept of the training": kept,
            SHARE: share,
            "compared with": "the reranker that serves" if spec.current else "the encoder's order",
        },
        "training": curves.losses,
        "validation": curves.validation,
        "mix": mixing.told(tried),
        "mix_chosen": kept,
        "blend": blends,
        "blend_chosen": share,
        "held_out": {"queries": [one.query for one in material.held_out], **measured, **shown},
        "scores": judging.split(compared),
        "pairs": {"labels": compared.labels, "before": compared.before, "after": compared.after},
        "seconds": material.seconds,
    }
    if guarded:
        queries = len(guarded["before"][NO_SIZE][DECIDING_METRIC])
        details["guard"] = {"name": spec.guard, "queries": queries, **guarded}
    write_json(folder / DETAILS, details)
    write_json(folder / RESULT, result)


def _guarded(model: CrossEncoder, share: float, spec: Spec, folder: Path) -> dict[str, evaluating.Scores]:
    """Scores before and after on the guard set, of what the same encoder brings of its documents; none without one."""
    guard = guarding.read(folder)
    if not guard:
        return {}
    asked = _some([*guard.steering, *guard.judged], _MOST_GUARD)
    material = Material(list(guard.texts), guard.texts, [], [], asked, {})
    found = pools(spec.encoder, material)
    scores, _ = judging.measured(judging.judges_of(model, share, spec, material, found), material, found)
    return scores


def prepared(name: str, material: Material, found: Mapping[str, Pool], spec: Spec) -> Rows:
    """The rows of a recipe, as often as they count. Raises ``JobError`` if there are none.

    The size of a batch is counted in pairs, so lists of several go together in smaller numbers.
    """
    mined = {query: pool.mined for query, pool in found.items()}
    unjudged = choices.drawn(material.train, mined, spec.negatives, spec.seed)
    if name == "bce":
        rows = resampled(choices.pairs(material.train, unjudged), spec.seed)
        if len({row.label for row in rows}) < 2:
            raise JobError("all examples have the same target: nothing tells relevant documents from others")
        columns: dict[str, list[Any]] = {
            "query": [row.query for row in rows],
            "document": [material.texts[row.documents[0]] for row in rows],
            "label": [row.label for row in rows],
        }
        return Rows(len(rows), spec.batch_size, Dataset.from_dict(columns))
    lists = resampled(choices.lists(material.train, unjudged), spec.seed)
    if not lists:
        raise JobError("no query has documents of different targets: nothing tells relevant documents from others")
    columns = {
        "query": [row.query for row in lists],
        "documents": [[material.texts[document] for document in row.documents] for row in lists],
        "labels": [list(row.labels) for row in lists],
    }
    widest = max(len(row.documents) for row in lists)
    examples = sum(len(row.documents) for row in lists)
    return Rows(examples, max(1, spec.batch_size // widest), Dataset.from_dict(columns))


@contextmanager
def _shortened(model: CrossEncoder) -> Iterator[None]:
    """Read less of a pair for a while; what is published reads as much as the base."""
    before = model.max_seq_length
    model.max_seq_length = min(exporting.max_tokens(model), _MAX_TOKENS)
    try:
        yield
    finally:
        model.max_seq_length = before


def _validation(
    model: CrossEncoder, material: Material, found: Mapping[str, Pool], spec: Spec
) -> Callable[[], float] | None:
    """A score of the model as it is then: nDCG@10 over parts of the pools; None without validation queries."""
    if not material.validation:
        return None
    some = _some(material.validation, _STEERING)
    asked = {one.query: one.relevant for one in some}
    small = {one.query: found[one.query].cut(one.relevant, _STEERING_DEPTH) for one in some}

    def validate() -> float:
        scores = judging.scored(model, some, small, material.texts, judged=False)
        return _ndcg(asked, [small[one.query].reranked(scores[one.query], 0.0) for one in some])

    return validate


def _blended(
    model: CrossEncoder, material: Material, found: Mapping[str, Pool]
) -> tuple[float, list[dict[str, float]]]:
    """The share of the order that is best left to the first stage, by validation queries; and all that were tried.

    Of equal ones the greatest, which changes least of what is known to work.
    """
    if not material.validation:
        return _UNSTEERED_SHARE, []
    some = _some(material.validation, _BLENDING)
    asked = {one.query: one.relevant for one in some}
    scores = judging.scored(model, some, found, material.texts, judged=False)
    tried = [
        {"share": share, "ndcg@10": _ndcg(asked, [found[one.query].reranked(scores[one.query], share) for one in some])}
        for share in SHARES
    ]
    return max(tried, key=lambda one: (one["ndcg@10"], one["share"]))["share"], tried


def _ndcg(asked: evaluating.Queries, ranked: list[list[str]]) -> float:
    return float(np.mean(evaluating.scores(asked, lambda size: ranked, [NO_SIZE])[NO_SIZE][DECIDING_METRIC]))


def _some(judged: Sequence[Judged], most: int) -> list[Judged]:
    """At most so many, always the same of the same."""
    return random.Random(0).sample(list(judged), most) if len(judged) > most else list(judged)  # noqa: S311
