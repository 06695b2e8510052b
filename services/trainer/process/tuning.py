"""A fine-tuning from its files to a candidate with its scores."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from diapason.vectors import Matrix
from services.trainer.domain import examples
from services.trainer.domain import recipes as choices
from services.trainer.process import detailing, evaluating, exporting, guarding, loading, mixing, recipes
from services.trainer.process.encoding import Encoder, encoder
from services.trainer.process.guarding import Guard
from services.trainer.process.material import Material as _Material
from services.trainer.process.material import fix_chance
from services.trainer.process.material import telling as _telling
from services.trainer.process.mining import mine
from services.trainer.process.rotation import rotate
from services.trainer.process.spec import (
    CANDIDATE,
    DETAILS,
    RESULT,
    Spec,
    is_first,
    say,
    write_json,
)
from services.trainer.process.training import Training

# Validation queries are asked of their relevant documents, of the hardest others, and of so many at random.
_POOL_HARD, _POOL_RANDOM = 10, 300
_DECIDING = "ndcg@10"


def tune(spec: Spec, folder: Path) -> None:
    """Leave the candidate, its scores beside the current version's, and the details of how it came about."""
    fix_chance(spec.seed)
    material = _Material.read(folder)
    started = time.monotonic()
    say(stage="train", progress=0.0, message="reading the collection with the base")
    model = loading.load(spec.base)
    corpus = Encoder(model)(list(material.texts.values()), "document", _telling("train", 0.0, 0.0))
    plain = corpus
    corpus = rotate(model, corpus)
    before = mixing.weights_of(model)
    mined = _mined(model, material, corpus)
    name, recipe = recipes.find(spec.recipe, material.train)
    pairs = sum(1 if one.label else len(one.relevant) for one in material.train)
    spec = replace(spec, epochs=spec.epochs or choices.epochs(pairs))
    rows = examples.resampled(examples.rows(recipe.form, material.train, mined, spec.negatives, spec.seed), spec.seed)
    validate = _validation(model, material, mined, spec)
    curves = Training(model, recipe, spec, folder).run(rows, material.texts, validate)
    if not is_first():
        return
    sizes = [plain.shape[1], *spec.dimensions]
    guard = guarding.read(folder)
    forgetting = guard.forgetting(model, spec, sizes) if guard else None
    share, tried = mixing.mix(model, before, validate, forgetting)
    material.seconds["train"] = time.monotonic() - started
    spaces, guarded = _judged(model, spec, material, plain, guard)
    asked = {one.query: one.relevant for one in material.held_out}
    scores = [evaluating.scores(asked, space.ranked, sizes) for space in spaces]
    result = {"before": scores[0], "after": scores[1]}
    beside = detailing.shown(material.held_out, spaces[0], spaces[1], material.texts)
    say(stage="export", progress=0.0, message="the candidate to OpenVINO")
    exporting.export(model, spec.dimensions, folder / CANDIDATE)
    details = {
        "kind": "encoder",
        "data": {
            "recipe": name,
            "rows": len(rows),
            "train_queries": len(material.train),
            "validation_queries": len(material.validation),
            "held_out_queries": len(material.held_out),
            "documents": len(material.ids),
            "policy": material.policy,
            "query_tokens": detailing.lengths(model, [one.query for one in (*material.train, *material.held_out)]),
            "document_tokens": detailing.lengths(model, list(material.texts.values())),
        },
        "config": {"recipe": name, "negatives": spec.negatives, "epochs": spec.epochs, "batch size": spec.batch_size}
        | {"learning rate": spec.learning_rate, "seed": spec.seed, "dimensions": spec.dimensions}
        | {"kept of the training": share},
        "training": curves.losses,
        "validation": curves.validation,
        "mix": mixing.told(tried),
        "mix_chosen": share,
        "held_out": {"queries": list(asked), **result, **beside},
        "scores": {name: detailing.opinions(material.held_out, s) for name, s in zip(result, spaces, strict=True)},
        "seconds": material.seconds,
    }
    measured: dict[str, Any] = result | {"judged@10": beside.get("judged@10", {})}
    if guard:
        measured["guard"] = dict(zip(result, guarded, strict=True))
        details["guard"] = {"name": spec.guard, "queries": len(guard.judged), **measured["guard"]}
    write_json(folder / DETAILS, details)
    write_json(folder / RESULT, measured)


def _mined(model: SentenceTransformer, material: _Material, corpus: Matrix) -> Mapping[str, list[str]]:
    judged = [*material.train, *material.validation]
    queries = encoder(model, len(judged))([one.query for one in judged], "query")
    return mine(judged, queries, material.ids, corpus)


def _validation(
    model: SentenceTransformer, material: _Material, mined: Mapping[str, Sequence[str]], spec: Spec
) -> Callable[[], float] | None:
    """A score of the model as it is then: nDCG@10 over all sizes; None without validation queries."""
    if not material.validation:
        return None
    wanted: dict[str, None] = {}
    for one in material.validation:
        wanted |= dict.fromkeys(one.targets) | dict.fromkeys(mined[one.query][:_POOL_HARD])
    chance = random.Random(spec.seed)  # noqa: S311
    wanted |= dict.fromkeys(chance.sample(material.ids, min(_POOL_RANDOM, len(material.ids))))
    pool = [name for name in wanted if name in material.texts]
    texts = [material.texts[name] for name in pool]
    asked = {one.query: one.relevant for one in material.validation}

    def validate() -> float:
        encode = encoder(model, len(texts))
        space = evaluating.Space(encode(list(asked), "query"), encode(texts, "document"), pool)
        sizes = [space.documents.shape[1], *spec.dimensions]
        found = evaluating.scores(asked, space.ranked, sizes)
        return float(np.mean([found[size][_DECIDING] for size in sizes]))

    return validate


def _judged(
    model: SentenceTransformer, spec: Spec, material: _Material, base: Matrix, guard: Guard | None
) -> tuple[list[evaluating.Space], list[evaluating.Scores]]:
    """The held-out queries and the whole collection as the current version sees them, and the candidate.

    Then the scores of both on the guard set; none without one.
    """
    started = time.monotonic()
    texts, queries = list(material.texts.values()), [one.query for one in material.held_out]
    spaces, guarded = [], []
    for i, name in enumerate(("the current version", "the candidate")):
        say(stage="evaluate", progress=i / 2, message=f"{name} on the held-out queries")
        encode = Encoder(model if i else loading.load(spec.current))
        known = not i and spec.current == spec.base
        documents = base if known else encode(texts, "document", _telling("evaluate", i / 2, (i + 1) / 2))
        spaces.append(evaluating.Space(encode(queries, "query"), documents, material.ids))
        if guard:
            say(stage="evaluate", message=f"{name} on the guard set")
            guarded.append(guard.scores(guard.judged, encode, [base.shape[1], *spec.dimensions]))
    material.seconds["evaluate"] = time.monotonic() - started
    return spaces, guarded
