"""PyTorch through sentence-transformers, for GPUs. Reads the version's weights, not its OpenVINO files."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from services.embedder.domain.splitting import Span
from services.embedder.worker.frames import LoadSpec
from services.embedder.worker.runtime import BadVersion, Input, Output

WEIGHTS = "weights"


def device() -> str:
    """``cuda`` where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def describe() -> str:
    """Runtime, release and device, for people."""
    name = torch.cuda.get_device_name() if device() == "cuda" else "cpu"
    return f"torch {torch.__version__.split('+')[0]} {name}"


class TorchModel:
    """One version on one device. Batches take turns: a GPU gains nothing from two at once."""

    def __init__(self, what: LoadSpec) -> None:
        kind = CrossEncoder if what.reranker else SentenceTransformer
        torch.set_num_threads(what.wide_threads)
        # TensorFloat-32 where the GPU has it; the golden vectors say whether that is close enough.
        torch.set_float32_matmul_precision("high")
        try:
            self._model: Any = kind(
                str(Path(what.folder) / WEIGHTS),
                device=device(),
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:  # every library below has its own
            raise BadVersion(f"it can't be loaded ({type(error).__name__}); the embedder's log has it") from error
        self._model.max_seq_length = what.max_tokens
        self._reranker, self._raw, self._max_tokens = what.reranker, what.raw, what.max_tokens
        self._turn = threading.Lock()

    @property
    def special_tokens(self) -> int:
        """How many are put around each text."""
        return int(self._model.tokenizer.num_special_tokens_to_add(pair=False))

    def offsets(self, text: str) -> list[Span]:
        """Where in a text each of its tokens is, special ones left out, however long it is."""
        with self._turn:  # a tokenizer changes its own settings with each call
            encoded = self._model.tokenizer(
                text,
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_offsets_mapping=True,
                verbose=False,
            )
        return list(encoded["offset_mapping"])

    def run(self, inputs: Sequence[Input], slot: int) -> Output:
        """One forward pass, whatever the slot."""
        with self._turn:
            started = time.perf_counter()
            lengths = [len(ids) for ids in self._token_ids(inputs)]
            tokens = [min(length, self._max_tokens) for length in lengths]
            tokenized = time.perf_counter()
            rows = self._scores(inputs) if self._reranker else self._vectors(inputs)
            return Output(
                rows=rows,
                tokens=tokens,
                truncated=[length > self._max_tokens for length in lengths],
                padded_tokens=max(tokens) * len(tokens),
                tokenization=tokenized - started,
                inference=time.perf_counter() - tokenized,
            )

    def warm(self) -> None:
        """One pass, which allocates."""
        self.run([("warm", "up")] if self._reranker else ["warm up"], 0)

    def _token_ids(self, inputs: Sequence[Input]) -> list[list[int]]:
        firsts = [item if isinstance(item, str) else item[0] for item in inputs]
        seconds = [item[1] for item in inputs if not isinstance(item, str)] or None
        encoded = self._model.tokenizer(firsts, seconds, truncation=False, padding=False, verbose=False)
        return list(encoded["input_ids"])

    def _vectors(self, inputs: Sequence[Input]) -> "np.ndarray[Any, np.dtype[np.float32]]":
        found = self._model.encode(
            list(inputs),
            prompt="",  # it stands before the text already
            batch_size=len(inputs),
            normalize_embeddings=not self._raw,
            show_progress_bar=False,
        )
        return np.asarray(found, np.float32)

    def _scores(self, inputs: Sequence[Input]) -> "np.ndarray[Any, np.dtype[np.float32]]":
        found = self._model.predict(list(inputs), prompt="", batch_size=len(inputs), show_progress_bar=False)
        return np.asarray(found, np.float32).reshape(-1, 1)
