"""Getting a sentence-transformers model from a folder, a package or a hub, without running its code (I3)."""

import importlib.util
from pathlib import Path

from sentence_transformers import SentenceTransformer

from services.trainer.process.spec import JobError

_PACKAGE = "package:"


def load(source: str) -> SentenceTransformer:
    """``source`` is a folder, ``package:NAME`` or a hub id. Raises ``JobError``."""
    try:
        return SentenceTransformer(
            _located(source), device="cpu", trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError, KeyError) as error:
        raise JobError(f"no model could be loaded from {source!r}: {_first_line(error)}") from error


def _located(source: str) -> str:
    if not source.startswith(_PACKAGE):
        return source
    name = source.removeprefix(_PACKAGE)
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise JobError(f"the package {name!r} is not installed; install it where the worker runs")
    found = sorted(Path(spec.origin).parent.rglob("modules.json"))
    if not found:
        raise JobError(f"the package {name!r} carries no sentence-transformers model")
    return str(found[0].parent)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
