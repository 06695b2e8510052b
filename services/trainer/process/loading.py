"""Getting a sentence-transformers model from a folder, a package or a hub, without running its code (I3)."""

import importlib.util
from pathlib import Path
from typing import Any, Literal, overload

from sentence_transformers import CrossEncoder, SentenceTransformer

from services.trainer.domain.model import Kind
from services.trainer.process.spec import JobError

_PACKAGE = "package:"


@overload
def load(source: str, kind: Literal[Kind.ENCODER] = Kind.ENCODER) -> SentenceTransformer: ...
@overload
def load(source: str, kind: Literal[Kind.RERANKER]) -> CrossEncoder: ...
@overload
def load(source: str, kind: Kind) -> SentenceTransformer | CrossEncoder: ...
def load(source: str, kind: Kind = Kind.ENCODER) -> SentenceTransformer | CrossEncoder:
    """``source`` is a folder, ``package:NAME`` or a hub id. Weights are float32. Raises ``JobError``."""
    options: dict[str, Any] = {
        "device": "cpu",
        "trust_remote_code": False,
        "model_kwargs": {"use_safetensors": True},
    }
    try:
        if kind is Kind.ENCODER:
            return SentenceTransformer(_located(source, kind), **options).float()
        reranker: CrossEncoder = CrossEncoder(_located(source, kind), **options)
    except (OSError, ValueError, KeyError) as error:
        raise JobError(f"no model could be loaded from {source!r}: {_first_line(error)}") from error
    _check(reranker, source)
    return reranker.float()


def _check(model: CrossEncoder, source: str) -> None:
    """Refuse what would load but not give one learned score per pair."""
    architectures = getattr(model.config, "architectures", None) or ["none"]
    # Of any other model the backbone would be taken, and given a head of random weights.
    if len(model) == 1 and not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise JobError(
            f"{source!r} is no cross-encoder: its architecture is {', '.join(architectures)}, and a reranker needs "
            "one for sequence classification; if it is an encoder, register it as one"
        )
    if model.num_labels != 1:
        raise JobError(f"{source!r} gives {model.num_labels} scores per pair of texts; a reranker gives one")


def _located(source: str, kind: Kind) -> str:
    if not source.startswith(_PACKAGE):
        return source
    name = source.removeprefix(_PACKAGE)
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise JobError(f"the package {name!r} is not installed; install it where the worker runs")
    folders = _encoders(Path(spec.origin).parent) if kind is Kind.ENCODER else _rerankers(Path(spec.origin).parent)
    if not folders:
        raise JobError(f"the package {name!r} carries no sentence-transformers model")
    return str(folders[0])


def _encoders(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.rglob("modules.json"))


def _rerankers(root: Path) -> list[Path]:
    """Many cross-encoders have only what transformers writes: a config, and a tokenizer beside it."""
    tokenizers = ("tokenizer.json", "tokenizer_config.json")
    folders = (path.parent for path in root.rglob("config.json"))
    return sorted(folder for folder in folders if any((folder / name).exists() for name in tokenizers))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
