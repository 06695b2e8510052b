"""From a run's row and details to what the report says. Pure; every list in it is bounded."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from diapason.evaluation.comparing import bootstrap
from services.trainer.domain import classification
from services.trainer.domain.classification import THRESHOLD, Curve
from services.trainer.domain.details import (
    NDCG,
    BlendPoint,
    Comparison,
    Data,
    Details,
    Gate,
    HeldOut,
    LossPoint,
    MixPoint,
    Pair,
    Pairs,
    Scored,
    Scores,
    Shown,
    Split,
    ValidationPoint,
    read,
)

# Bounds of one report, so that it stays far below what a message may hold.
MOST_POINTS = 400
MOST_QUERIES = 2_000
MOST_ROWS = 100
MOST_TEXTS = 10
MOST_CHARACTERS = 300
EXTREMES = 10
BINS = 30

# Scores that differ by less are the same but for the order in which they were added up.
_SAME = 1e-12
_VERDICTS = {"promote": "Promoted", "reject": "Rejected", "inconclusive": "Inconclusive"}
_ENDS = {"failed": "failed", "cancelled": "was cancelled"}
_METRICS = {"ndcg": "nDCG", "mrr": "MRR", "auc": "AUC", "map": "MAP", "f1": "F1"}

Item = TypeVar("Item")


@dataclass(frozen=True)
class Facts:
    """A run as its row has it. Moments are in UTC, as ISO 8601 has them; empty for what has not been."""

    id: str
    kind: str
    state: str
    message: str
    collection: str
    model: str
    current: str
    published: str
    dry_run: bool
    created: str
    started: str
    ended: str


@dataclass(frozen=True)
class QueryGain:
    """One held-out query before and after."""

    query: str
    before: float
    after: float
    shown: Shown

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True)
class Gains:
    """How the held-out queries fared by nDCG@10 at the full size; ``differences`` from the best to the worst."""

    dimensions: int
    better: int
    same: int
    worse: int
    differences: list[float]
    best: list[QueryGain]
    worst: list[QueryGain]


@dataclass(frozen=True)
class Distribution:
    """Scores of liked and of disliked pairs: means, shares per bin, and the chance that a liked one scores higher."""

    liked: int
    disliked: int
    liked_mean: float
    disliked_mean: float
    liked_shares: list[float]
    disliked_shares: list[float]
    auc: float | None


@dataclass(frozen=True)
class Distributions:
    """Both on the same bins, whose ``edges`` are one more than the bins."""

    edges: list[float]
    before: Distribution
    after: Distribution


@dataclass(frozen=True)
class Guarded:
    """The guard set by nDCG@10, with paired bootstrap intervals."""

    name: str
    queries: int
    metrics: list[Comparison]


@dataclass(frozen=True)
class Classified:
    """How well a reranker tells relevant pairs from others."""

    confusion: classification.Confusion
    rates: dict[str, float | None]
    roc: Curve
    precision_recall: Curve


@dataclass(frozen=True)
class Classification:
    """The same before and after."""

    pairs: int
    relevant: int
    threshold: float
    before: Classified
    after: Classified


@dataclass(frozen=True)
class Report:
    """All that the page shows. A part that is None, or empty, is left out of it; ``notes`` say what else is."""

    run: Facts
    sentence: str
    model_kind: str
    gate: Gate | None
    data: Data | None
    config: dict[str, Any]
    training: list[LossPoint]
    validation: list[ValidationPoint]
    mix: list[MixPoint]
    mix_chosen: float | None
    blend: list[BlendPoint]
    blend_chosen: float | None
    gains: Gains | None
    judged: Pair | None
    queries: list[dict[str, Any]]
    distributions: Distributions | None
    guard: Guarded | None
    classification: Classification | None
    seconds: dict[str, float]
    notes: list[str]

    def as_json(self) -> bytes:
        """The report for programs, UTF-8."""
        content = asdict(self, dict_factory=lambda pairs: {name: _jsonable(value) for name, value in pairs})
        return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1).encode("utf-8", "replace")


def build(facts: Facts, row: Mapping[str, Any], details: Mapping[str, Any], notes: Sequence[str] = ()) -> Report:
    """Make a report of a run.

    ``row`` is what the run's row knows in the form of details (gate, data, config, training); ``details`` tells more
    and, but for the gate, better.
    """
    found, unreadable = read(_merged(row, details))
    said = [*notes, *(f"Left out, because it can't be read: {_cut(reason)}." for reason in unreadable)]
    full = full_size(found.held_out)
    queries = _queries(found.held_out, full)
    for what, there, most in (
        ("points of the loss", len(found.training), MOST_POINTS),
        ("points of validation", len(found.validation), MOST_POINTS),
        ("points of the mix", len(found.mix), MOST_POINTS),
        ("points of the blend", len(found.blend), MOST_POINTS),
        ("comparisons", len(found.gate.metrics) if found.gate else 0, MOST_ROWS),
        ("settings", len(found.config), MOST_ROWS),
        ("queries' differences drawn", len(queries), MOST_POINTS),
        ("queries in the JSON form", len(queries), MOST_QUERIES),
    ):
        if there > most:
            said.append(f"Of {there:,} {what} {most} are shown.")
    return Report(
        run=facts,
        sentence=sentence(facts, found.gate),
        model_kind=_cut(found.kind),
        gate=_bounded_gate(found.gate),
        data=_bounded_data(found.data),
        config=_bounded(found.config),
        training=thinned(found.training, MOST_POINTS),
        validation=thinned(found.validation, MOST_POINTS),
        mix=thinned(found.mix, MOST_POINTS),
        mix_chosen=found.mix_chosen,
        blend=thinned(found.blend, MOST_POINTS),
        blend_chosen=found.blend_chosen,
        gains=_gains(queries, full),
        judged=found.held_out.judged if found.held_out else None,
        queries=[{"query": each.query, "before": each.before, "after": each.after} for each in queries[:MOST_QUERIES]],
        distributions=_distributions(found.scores) if found.scores else None,
        guard=_guarded(found) if found.guard else None,
        classification=_classification(found.pairs) if found.pairs and found.pairs.labels else None,
        seconds={_cut(name): value for name, value in list(found.seconds.items())[:MOST_ROWS]},
        notes=said[:MOST_ROWS],
    )


def sentence(facts: Facts, gate: Gate | None) -> str:
    """The verdict with its numbers, or how the run ended without one."""
    if gate is None:
        return _cut(f"{facts.state.capitalize()} without a verdict: {facts.message}")
    deciding = next((row for row in gate.metrics if row.metric == NDCG), None)
    # After its first part the gate's reason repeats the numbers that follow here.
    why = gate.reason.partition(";")[0] if deciding else gate.reason
    said = f"{_VERDICTS.get(gate.verdict, gate.verdict)} ({why})"
    if facts.state != "succeeded":
        said = f"The gate said {gate.verdict} ({why}), then the run {_ENDS.get(facts.state, facts.state)}"
    elif gate.verdict == "promote" and facts.dry_run:
        said = "Better, not published because it was a dry run"
    if deciding is None:
        return _cut(f"{said}.")
    at = f" at {deciding.dimensions} dimensions" if deciding.dimensions else ""
    return _cut(
        f"{said}: on {gate.queries:,} held-out queries {label(NDCG)}{at} went from {deciding.before:.3f} "
        f"to {deciding.after:.3f}, a difference of {deciding.difference:+.3f} "
        f"(95 % interval {deciding.low:+.3f} to {deciding.high:+.3f})."
    )


def label(metric: str) -> str:
    """A metric's name as people write it: ``ndcg@10`` is nDCG@10."""
    name, at, depth = metric.partition("@")
    return _METRICS.get(name, name.replace("_", " ").capitalize()) + at + depth


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """At most ``most`` (2 or more) of the items at even distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def full_size(held_out: HeldOut | None) -> int | None:
    """The largest size at which nDCG@10 was measured before and after."""
    if held_out is None:
        return None
    return max((size for size in _sizes(held_out.before, held_out.after)), default=None)


def _sizes(before: Scores, after: Scores) -> list[int]:
    return sorted((s for s in before.keys() & after.keys() if NDCG in before[s] and NDCG in after[s]), reverse=True)


def _merged(row: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**row, **details, "gate": row.get("gate")}
    for part in ("data", "config"):
        parts = [given for given in (row.get(part), details.get(part)) if isinstance(given, Mapping)]
        if parts and isinstance(details.get(part, {}), Mapping):
            merged[part] = {name: value for given in parts for name, value in given.items()}
    return {name: part for name, part in merged.items() if part is not None}


def _queries(held_out: HeldOut | None, full: int | None) -> list[QueryGain]:
    if held_out is None or full is None:
        return []
    before, after = held_out.before[full][NDCG], held_out.after[full][NDCG]
    return [
        QueryGain(_cut(query), b, a, _bounded_shown(held_out.shown.get(query, Shown())))
        for query, b, a in zip(held_out.queries, before, after, strict=True)
    ]


def _gains(queries: Sequence[QueryGain], full: int | None) -> Gains | None:
    if full is None or not queries:
        return None
    ordered = sorted(queries, key=lambda each: -each.difference)
    better = [each for each in ordered if each.difference > _SAME]
    worse = [each for each in ordered if each.difference < -_SAME]
    return Gains(
        dimensions=full,
        better=len(better),
        same=len(queries) - len(better) - len(worse),
        worse=len(worse),
        differences=thinned([each.difference for each in ordered], MOST_POINTS),
        best=better[:EXTREMES],
        worst=worse[::-1][:EXTREMES],
    )


def _distributions(scored: Scored) -> Distributions | None:
    splits = [scored.before, scored.after]
    together = [score for split in splits for score in (*split.liked, *split.disliked)]
    if not together:
        return None
    edges = np.histogram_bin_edges(together, BINS)
    before, after = (_distribution(split, edges) for split in splits)
    return Distributions([float(edge) for edge in edges], before, after)


def _distribution(split: Split, edges: Any) -> Distribution:
    def shares(scores: Sequence[float]) -> list[float]:
        counts, _ = np.histogram(scores, edges)
        return [float(count) / max(1, len(scores)) for count in counts]

    labels = [1] * len(split.liked) + [0] * len(split.disliked)
    return Distribution(
        liked=len(split.liked),
        disliked=len(split.disliked),
        liked_mean=float(np.mean(split.liked)) if split.liked else 0.0,
        disliked_mean=float(np.mean(split.disliked)) if split.disliked else 0.0,
        liked_shares=shares(split.liked),
        disliked_shares=shares(split.disliked),
        auc=classification.auc(labels, [*split.liked, *split.disliked]),
    )


def _guarded(found: Details) -> Guarded:
    guard = found.guard
    assert guard is not None
    rows = []
    for size in _sizes(guard.before, guard.after)[:MOST_ROWS]:
        before, after = np.asarray(guard.before[size][NDCG]), np.asarray(guard.after[size][NDCG])
        if not len(before):
            continue
        interval = bootstrap(after - before)
        rows.append(
            Comparison(
                metric=NDCG,
                dimensions=size,
                before=float(before.mean()),
                after=float(after.mean()),
                low=interval.low,
                high=interval.high,
            )
        )
    return Guarded(_cut(guard.name), guard.queries, rows)


def _classification(pairs: Pairs) -> Classification:
    before, after = (_classified(pairs.labels, scores) for scores in (pairs.before, pairs.after))
    return Classification(len(pairs.labels), sum(pairs.labels), THRESHOLD, before, after)


def _classified(labels: Sequence[int], scores: Sequence[float]) -> Classified:
    table = classification.confusion(labels, scores)
    return Classified(
        confusion=table,
        rates={
            "accuracy": table.accuracy,
            "precision": table.precision,
            "recall": table.recall,
            "F1": table.f1,
            "area under the ROC curve": classification.auc(labels, scores),
            "average precision": classification.average_precision(labels, scores),
        },
        roc=_thinned_curve(classification.roc(labels, scores)),
        precision_recall=_thinned_curve(classification.precision_recall(labels, scores)),
    )


def _thinned_curve(curve: Curve) -> Curve:
    points = thinned(list(zip(curve.x, curve.y, strict=True)), MOST_POINTS)
    return Curve(tuple(x for x, _ in points), tuple(y for _, y in points))


def _bounded_gate(gate: Gate | None) -> Gate | None:
    if gate is None:
        return None
    rows = [row.model_copy(update={"metric": _cut(row.metric)}) for row in gate.metrics[:MOST_ROWS]]
    return gate.model_copy(update={"reason": _cut(gate.reason), "verdict": _cut(gate.verdict), "metrics": rows})


def _bounded_data(data: Data | None) -> Data | None:
    return data and data.model_copy(update={"recipe": _cut(data.recipe), "policy": _bounded(data.policy)})


def _bounded_shown(shown: Shown) -> Shown:
    cut = {name: [_cut(text) for text in texts[:MOST_TEXTS]] for name, texts in shown.model_dump().items()}
    return Shown(**cut)


def _bounded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Names and values for a table: what is no plain value becomes a text."""

    def plain(value: Any) -> Any:
        if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
            return value
        return _cut(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))

    return {_cut(name): plain(value) for name, value in list(settings.items())[:MOST_ROWS]}


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


def _jsonable(value: Any) -> Any:
    """Parts that come as pydantic has them, as JSON has them."""
    if isinstance(value, list):
        return [_jsonable(each) for each in value]
    return value.model_dump(by_alias=True) if hasattr(value, "model_dump") else value
