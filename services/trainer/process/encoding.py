"""Vectors of many texts by the graph that would serve, which is several times as fast as the model in PyTorch.

What is measured is then what callers will get, in the precision in which they will get it.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from diapason.vectors import Matrix
from services.trainer.process.exporting import max_tokens, tokenizer_of
from services.trainer.process.graph import convert

# A text, or a query with a text.
Input = str | tuple[str, str]

# Texts in one pass; those of one pass are of about the same length.
_BATCH = 8
# To make the graph takes seconds, which fewer texts than this are not worth.
_WORTH_A_GRAPH = 300


class Graph:
    """A model as it is now, compiled as it would serve. Used from one thread."""

    def __init__(self, model: SentenceTransformer | CrossEncoder) -> None:
        was_training, _ = model.training, model.eval()
        core = ov.Core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        streams = os.cpu_count() or 1
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if "BF16" in capabilities else "f32",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
        }
        compiled = core.compile_model(convert(model), "CPU", options)
        model.train(was_training)
        self._names = {name for port in compiled.inputs for name in port.get_names()}
        self._queue = ov.AsyncInferQueue(compiled, streams)
        self._tokenizer = tokenizer_of(model)
        self._tokenizer.enable_truncation(max_tokens(model))

    def run(self, inputs: Sequence[Input], size: int, progress: Callable[[float], None]) -> Matrix:
        """One row of so many numbers for each input, in their order; progress from 0 to 1."""
        rows = np.zeros((len(inputs), size), np.float32)
        order = sorted(range(len(inputs)), key=lambda i: _length(inputs[i]))

        def keep(request: Any, places: list[int]) -> None:
            rows[places] = request.get_output_tensor(0).data

        self._queue.set_callback(keep)
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            self._queue.start_async(self._tensors([inputs[i] for i in places]), places)
            progress(start / len(order))
        self._queue.wait_all()
        return rows

    def _tensors(self, inputs: list[Input]) -> dict[str, np.ndarray[Any, Any]]:
        encodings = self._tokenizer.encode_batch(inputs)
        columns = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }
        return {name: np.array(rows, np.int64) for name, rows in columns.items() if name in self._names}


class Encoder:
    """An encoder as it is now. Used from one thread."""

    def __init__(self, model: SentenceTransformer) -> None:
        self._graph = Graph(model)
        self._prompts = model.prompts
        self._size = int(model.get_embedding_dimension() or 0)

    def __call__(
        self, texts: Sequence[str], role: str, progress: Callable[[float], None] = lambda done: None
    ) -> Matrix:
        """Vectors (texts × dimension) of unit length. ``role`` is query or document; progress from 0 to 1."""
        prompt = self._prompts.get(role) or ""
        rows = self._graph.run([prompt + text for text in texts], self._size, progress)
        scaled: Matrix = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return scaled


class Plain:
    """The same by PyTorch, for few texts."""

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model

    def __call__(self, texts: Sequence[str], role: str) -> Matrix:
        """Vectors (texts × dimension) of unit length."""
        was_training, _ = self._model.training, self._model.eval()
        prompt = self._model.prompts.get(role) or None
        with torch.no_grad():
            rows = self._model.encode(list(texts), prompt=prompt, normalize_embeddings=True, show_progress_bar=False)
        self._model.train(was_training)
        return np.asarray(rows, np.float32)


def encoder(model: SentenceTransformer, texts: int) -> Encoder | Plain:
    """What takes least time for about so many texts; a model on a GPU is fastest where it is."""
    return Encoder(model) if texts >= _WORTH_A_GRAPH and model.device.type == "cpu" else Plain(model)


def _length(one: Input) -> int:
    return len(one) if isinstance(one, str) else len(one[0]) + len(one[1])
