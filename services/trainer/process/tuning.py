"""A fine-tuning from its files to a candidate with its scores."""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from diapason.vectors import Matrix
from services.trainer.domain import examples
from services.trainer.domain import recipes as choices
from services.trainer.domain.data import Judged
from services.trainer.process import detailing, evaluating, exporting, loading, mixing, recipes
from services.trainer.process.encoding import Encoder, encoder
from services.trainer.process.mining import mine
from services.trainer.process.rotation import rotate
from services.trainer.process.spec import (
    CANDIDATE,
    CORPUS,
    DETAILS,
    HELD_OUT,
    POLICY,
    RESULT,
    TRAIN,
    VALIDATION,
    Spec,
    read_lines,
    say,
    write_json,
)
from services.trainer.process.training import Training

# Validation queries are asked of their relevant documents, of the hardest others, and of so many at random.
_POOL_HARD, _POOL_RANDOM = 10, 300
_DECIDING = "ndcg@10"


@dataclass
class _Material:
    """What the run's folder holds."""

    ids: list[str]
    texts: dict[str, str]
    train: list[Judged]
    validation: list[Judged]
    held_out: list[Judged]
    policy: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "_Material":
        """Take it up."""
        texts = {document["id"]: document["text"] for document in read_lines(folder / CORPUS)}
        train, validation, held_out = (
            [Judged(**one) for one in read_lines(folder / name)] for name in (TRAIN, VALIDATION, HELD_OUT)
        )
        policy = json.loads((folder / POLICY).read_text()) if (folder / POLICY).exists() else {}
        return cls(list(texts), texts, train, validation, held_out, policy)


def tune(spec: Spec, folder: Path) -> None:
    """Leave the candidate, its scores beside the current version's, and the details of how it came about."""
    _seed(spec.seed)
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
    pairs = sum(len(one.relevant) for one in material.train)
    spec = replace(spec, epochs=spec.epochs or choices.epochs(pairs))
    rows = examples.resampled(examples.rows(recipe.form, material.train, mined, spec.negatives), spec.seed)
    validate = _validation(model, material, mined, spec)
    curves = Training(model, recipe, spec, folder).run(rows, material.texts, validate)
    share, tried = mixing.mix(model, before, validate) if validate else (1.0, [])
    material.seconds["train"] = time.monotonic() - started
    spaces = _spaces(model, spec, material, plain)
    sizes = [plain.shape[1], *spec.dimensions]
    asked = {one.query: one.relevant for one in material.held_out}
    scores = [evaluating.scores(asked, space.ranked, sizes) for space in spaces]
    result = {"before": scores[0], "after": scores[1]}
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
        | {"learning rate": spec.learning_rate, "seed": spec.seed, "dimensions": spec.dimensions},
        "training": curves.losses,
        "validation": curves.validation,
        "mix": tried,
        "mix_chosen": share,
        "held_out": {"queries": list(asked), **result, **detailing.shown(material.held_out, *spaces, material.texts)},
        "scores": {name: detailing.opinions(material.held_out, s) for name, s in zip(result, spaces, strict=True)},
        "seconds": material.seconds,
    }
    write_json(folder / DETAILS, details)
    write_json(folder / RESULT, result)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # what the libraries draw from
    torch.manual_seed(seed)


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


def _spaces(
    model: SentenceTransformer, spec: Spec, material: _Material, base: Matrix
) -> tuple[evaluating.Space, evaluating.Space]:
    """The held-out queries and the whole collection as the current version sees them, and the candidate."""
    started = time.monotonic()
    texts, queries = list(material.texts.values()), [one.query for one in material.held_out]
    say(stage="evaluate", progress=0.0, message="the current version on the held-out queries")
    encode = Encoder(loading.load(spec.current))
    same = spec.current == spec.base
    documents = base if same else encode(texts, "document", _telling("evaluate", 0.0, 0.5))
    current = evaluating.Space(encode(queries, "query"), documents, material.ids)
    say(stage="evaluate", progress=0.5, message="the candidate on the held-out queries")
    encode = Encoder(model)
    documents = encode(texts, "document", _telling("evaluate", 0.5, 1.0))
    candidate = evaluating.Space(encode(queries, "query"), documents, material.ids)
    material.seconds["evaluate"] = time.monotonic() - started
    return current, candidate


def _telling(stage: str, begins: float, ends: float) -> Callable[[float], None]:
    """Says how far a stage is, a hundred times at most."""
    told = -1

    def tell(done: float) -> None:
        nonlocal told
        if int(100 * done) > told:
            told = int(100 * done)
            say(stage=stage, progress=begins + (ends - begins) * done)

    return tell
