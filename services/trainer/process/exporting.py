"""From a loaded model to what is published: weights, OpenVINO IR, tokenizer, description."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dropout, Normalize
from tokenizers import Tokenizer

from diapason import vectors
from services.trainer.domain.model import Kind
from services.trainer.process.graph import write_ir
from services.trainer.process.spec import DESCRIPTION, IR, TOKENIZER, WEIGHTS, JobError, write_json

# Of different lengths and kinds, so that a wrong pooling, padding or tokenizer shows.
GOLDEN_TEXTS = (
    "film",
    "A lighthouse keeper finds a message in a bottle.",
    "Wer hat den Schlüssel? ¿Dónde está? 何処ですか。",
    'E = mc², 3.14159 & <html> "quotes" — naïve café',
    "Two brothers inherit a failing hotel by the sea. One wants to sell, the other to rebuild it, and the "
    "guests who stay through the winter take sides until a storm decides for them.",
)
# Query and text; the long side is now one, now the other.
GOLDEN_PAIRS = (
    ("storm", "A storm."),
    ("who looks after the lighthouse", "A lighthouse keeper finds a message in a bottle."),
    ("¿Quién tiene la llave?", "Zwei Schlüssel, 50 € & keine Tür — wer öffnet?"),
    ("a quiet film about brothers who can't agree what to do with the hotel their parents left them", "Hotel"),
    (
        "heist gone wrong",
        "A retired safe-breaker is talked into one last job by his daughter. The vault turns out to be empty, the "
        "guard is an old friend, and the way back leads through a wedding to which neither of them was invited.",
    ),
)
# For a model that knows no limit of its own.
_MAX_TOKENS = 512
_NO_LIMIT = 1_000_000

_VECTOR = "sentence_embedding"


def export(
    model: SentenceTransformer | CrossEncoder, dimensions: list[int], folder: Path, first_stage_share: float = 0.0
) -> None:
    """Write everything that will be published into ``folder``. Raises ``JobError``.

    ``dimensions`` are an encoder's sizes besides the full one; ``first_stage_share`` is a reranker's.
    """
    model.eval()
    tokenizer = tokenizer_of(model)
    described = _encoder(model, dimensions) if isinstance(model, SentenceTransformer) else _reranker(model)
    described["first_stage_share"] = first_stage_share
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder / WEIGHTS), safe_serialization=True, create_model_card=False)
    tokenizer.save(str(folder / TOKENIZER))
    write_ir(model, folder / IR)
    write_json(folder / DESCRIPTION, described)


def _encoder(model: SentenceTransformer, dimensions: list[int]) -> dict[str, Any]:
    dimension = int(model.get_embedding_dimension() or 0)
    wrong = [size for size in dimensions if not 0 < size < dimension]
    if wrong:
        raise JobError(f"sizes {wrong} are not below the model's full size, {dimension}")
    # A default prompt would be put before the texts; who serves the model puts none before golden ones.
    golden = model.encode(list(GOLDEN_TEXTS), prompt="", show_progress_bar=False)
    return {
        "kind": Kind.ENCODER.value,
        "raw": _is_raw(model),
        "dimension": dimension,
        "dimensions": sorted({dimension, *dimensions}, reverse=True),
        "max_tokens": max_tokens(model),
        "prompts": _prompts(model.prompts),
        "golden_queries": [],
        "golden_texts": list(GOLDEN_TEXTS),
        "golden_vectors": _encoded(golden),
    }


def _prompts(named: Mapping[str, str | None]) -> dict[str, str]:
    """By role; models that follow E5 or the BEIR papers call their documents otherwise."""
    documents = next((found for name in ("document", "passage", "corpus") if (found := named.get(name))), "")
    return {"query": named.get("query") or "", "document": documents}


def _reranker(model: CrossEncoder) -> dict[str, Any]:
    return {
        "kind": Kind.RERANKER.value,
        "raw": False,
        "dimension": 0,
        "dimensions": [],
        "max_tokens": max_tokens(model),
        "prompts": {},
        "golden_queries": [query for query, _ in GOLDEN_PAIRS],
        "golden_texts": [text for _, text in GOLDEN_PAIRS],
        "golden_vectors": _encoded(model.predict(list(GOLDEN_PAIRS), prompt="", show_progress_bar=False)),
    }


def _encoded(rows: Any) -> str:
    return base64.b64encode(vectors.to_bytes(np.asarray(rows, np.float32))).decode()


def _is_raw(model: SentenceTransformer) -> bool:
    """Whether the last module that changes vectors does not scale them to unit length."""
    for module in reversed(list(model)):
        if isinstance(module, Dropout) or getattr(module, "module_output_name", _VECTOR) != _VECTOR:
            continue
        return not isinstance(module, Normalize)
    return True


def max_tokens(model: SentenceTransformer | CrossEncoder) -> int:
    """The longest text that the model reads, in tokens."""
    limit = int(model.max_seq_length or _MAX_TOKENS)
    return min(limit if limit < _NO_LIMIT else _MAX_TOKENS, _positions(model))


def _positions(model: torch.nn.Module) -> int:
    """How many positions there are to be looked up. RoBERTa's kind count from after their padding's id."""
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return _NO_LIMIT


def tokenizer_of(model: SentenceTransformer | CrossEncoder) -> Tokenizer:
    """What serving needs of the model's tokenizer: with the model's own padding, and no truncation.

    Padding of another id or on another side gives other vectors where positions follow from the ids.
    Raises ``JobError``.
    """
    given = model.tokenizer
    if not getattr(given, "is_fast", False):
        raise JobError("the model has no fast tokenizer (tokenizer.json), which serving needs")
    if given.pad_token_id is None:
        raise JobError("the model's tokenizer has no padding token, which serving texts together needs")
    tokenizer = Tokenizer.from_str(given.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.enable_padding(
        direction=given.padding_side,
        pad_id=given.pad_token_id,
        pad_type_id=given.pad_token_type_id,
        pad_token=given.pad_token,
    )
    return tokenizer
