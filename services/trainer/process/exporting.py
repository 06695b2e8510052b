"""From a sentence-transformers model to what is published: weights, OpenVINO IR, tokenizer, description."""

import base64
import logging
import warnings
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from sentence_transformers import SentenceTransformer

from diapason import vectors
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


class _Pipeline(torch.nn.Module):
    """The whole model from token ids to unit-length vectors, as one graph."""

    def __init__(self, model: SentenceTransformer, names: tuple[str, ...]) -> None:
        super().__init__()
        self._modules_in_order = torch.nn.ModuleList(model)
        self._names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        features = dict(zip(self._names, inputs, strict=True))
        for module in self._modules_in_order:
            features = module(features)
        return torch.nn.functional.normalize(features["sentence_embedding"].float(), p=2, dim=1)


def export(model: SentenceTransformer, dimensions: list[int], folder: Path) -> None:
    """Write everything that will be published into ``folder``. Raises ``JobError``."""
    dimension = int(model.get_embedding_dimension() or 0)
    wrong = [size for size in dimensions if not 0 < size < dimension]
    if wrong:
        raise JobError(f"sizes {wrong} are not below the model's full size, {dimension}")
    if not getattr(model.tokenizer, "is_fast", False):
        raise JobError("the model has no fast tokenizer (tokenizer.json), which serving needs")
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    model.save_pretrained(str(folder / WEIGHTS), safe_serialization=True, create_model_card=False)
    model.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
    _export_ir(model, folder / IR)
    golden = model.encode(list(GOLDEN_TEXTS), normalize_embeddings=True, show_progress_bar=False)
    write_json(
        folder / DESCRIPTION,
        {
            "dimension": dimension,
            "dimensions": sorted({dimension, *dimensions}, reverse=True),
            "max_tokens": int(model.max_seq_length or 512),
            "prompts": {role: model.prompts.get(role) or "" for role in ("query", "document")},
            "golden_texts": list(GOLDEN_TEXTS),
            "golden_vectors": base64.b64encode(vectors.to_bytes(np.asarray(golden, np.float32))).decode(),
        },
    )


def _export_ir(model: SentenceTransformer, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    example = model.tokenizer(["short", "a somewhat longer text"], padding=True, return_tensors="pt")
    names = tuple(name for name in ("input_ids", "attention_mask", "token_type_ids") if name in example)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of branches on shapes; the golden vectors catch what would matter.
        warnings.simplefilter("ignore")
        converted = ov.convert_model(_Pipeline(model, names), example_input=tuple(example[name] for name in names))
    for port, name in zip(converted.inputs, names, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(ov.PartialShape([-1, -1]))
        port.get_node().set_element_type(ov.Type.i64)
    converted.validate_nodes_and_infer_types()
    ov.save_model(converted, str(folder / "model.xml"), compress_to_fp16=False)
