"""From a model in PyTorch to one OpenVINO graph, from token ids to vectors or scores."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from services.trainer.process.spec import JobError

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Other numbers of texts and tokens than the golden ones have, so that those show a size that was baked in.
_EXAMPLE_TEXTS = ["short", "a somewhat longer text"]
_EXAMPLE_PAIRS = [("short", "a text"), ("a somewhat longer query", "and a text that is longer, too")]


class _Pipeline(torch.nn.Module):
    """The whole model as one function of tensors: texts × dimension, or texts × 1 for a reranker."""

    def __init__(self, model: SentenceTransformer | CrossEncoder, names: tuple[str, ...]) -> None:
        super().__init__()
        self._modules_in_order = torch.nn.ModuleList(model)
        self._names = names
        self._output = "sentence_embedding" if isinstance(model, SentenceTransformer) else "scores"
        self._activation = None if isinstance(model, SentenceTransformer) else model.activation_fn

    def forward(self, *inputs: torch.Tensor) -> Any:
        features = dict(zip(self._names, inputs, strict=True))
        for module in self._modules_in_order:
            features = module(features)
        output = features[self._output].float()
        return self._activation(output) if self._activation else output


def write_ir(model: SentenceTransformer | CrossEncoder, folder: Path) -> None:
    """Write the IR; its inputs have the tokenizer's names. Raises ``JobError``."""
    folder.mkdir(exist_ok=True)
    ov.save_model(convert(model), str(folder / "model.xml"), compress_to_fp16=False)


def convert(model: SentenceTransformer | CrossEncoder) -> ov.Model:
    """The model as one graph; its inputs have the tokenizer's names. Raises ``JobError``."""
    example = model.preprocess(_EXAMPLE_TEXTS if isinstance(model, SentenceTransformer) else _EXAMPLE_PAIRS)
    if example.get("modality", "text") != "text":
        raise JobError("the model wants its texts wrapped by a chat template, which serving does not do")
    names = tuple(name for name in _INPUTS if name in example)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad(), _finite_attention(model):
        # The tracer warns of branches on shapes; the golden vectors catch what would matter.
        warnings.simplefilter("ignore")
        converted = ov.convert_model(_Pipeline(model, names), example_input=tuple(example[name] for name in names))
    for port, name in zip(converted.inputs, names, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(ov.PartialShape([-1, -1]))
        port.get_node().set_element_type(ov.Type.i64)
    converted.validate_nodes_and_infer_types()
    return converted


@contextmanager
def _finite_attention(model: SentenceTransformer | CrossEncoder) -> Iterator[None]:
    """Attention that is a number also for a token that may attend to none.

    With "sdpa" such a token, padding far from all text under ModernBERT's sliding window, comes out as NaN in
    OpenVINO, and then so does the text. Masks of "eager" are finite. OpenVINO fuses either to the same kernel.
    """
    inner = model.transformers_model
    if inner is None:
        yield
        return
    before = inner.config._attn_implementation
    inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation(before)
