"""OpenVINO on CPU, and Rust tokenizers: no torch."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from tokenizers import Encoding, Tokenizer

from services.embedder.domain.splitting import Span
from services.embedder.worker.frames import LoadSpec
from services.embedder.worker.runtime import WIDE, BadVersion, Input, Output

MODEL_FILE = "openvino/model.xml"
TOKENIZER_FILE = "tokenizer.json"
# A shape's first run compiles kernels (1 to 2 ms here). Warmed are the usual lengths of lone queries, and a
# few of what batches are like; more would cost those who are served meanwhile more than it saves.
_WARM_WIDE, _WARM_SLOTS = (*range(4, 17), 32), (8, 32, 128)


def precision() -> str:
    """What the CPU computes fast: bf16 where it has instructions for it, else f32."""
    capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "f32"


def describe() -> str:
    """Runtime, release and precision, for people."""
    return f"openvino {ov.__version__.split('-')[0]} {precision()}"


class OpenVinoModel:
    """One version, compiled twice: for many small batches side by side, and for one that is alone.

    A batch on one thread wastes least; a lone query is answered sooner by all threads together.
    The constants are shared between the two.
    """

    def __init__(self, what: LoadSpec) -> None:
        folder = Path(what.folder)
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
            core = ov.Core()
            model = core.read_model(str(folder / MODEL_FILE))
            slots = _compile(core, model, what.slots, what.slots * what.threads)
            requests = {slot: slots.create_infer_request() for slot in range(what.slots)}
            wide = _compile(core, model, 1, what.wide_threads) if what.wide_threads > what.threads else slots
            self._requests = {WIDE: wide.create_infer_request(), **requests}
        except Exception as error:  # tokenizers and openvino raise plain Exception and RuntimeError
            raise BadVersion(f"it can't be loaded ({type(error).__name__}); the embedder's log has it") from error
        # Set before the first use and never again: after that, threads may share a tokenizer.
        self._tokenizer.enable_truncation(what.max_tokens)
        self._tokenizer.enable_padding(**_padding(self._tokenizer))
        self._names = {name for port in slots.inputs for name in port.get_names()}
        self._max_tokens = what.max_tokens

    @property
    def special_tokens(self) -> int:
        """How many are put around each text."""
        return self._tokenizer.num_special_tokens_to_add(False)

    def offsets(self, text: str) -> list[Span]:
        """Where in a text each of its tokens is, special ones left out, however long it is."""
        return offsets(self._tokenizer, text)

    def run(self, inputs: Sequence[Input], slot: int) -> Output:
        """One forward pass in a slot."""
        started = time.perf_counter()
        encodings = self._tokenizer.encode_batch(list(inputs))
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64)
        tensors = self._tensors(encodings, mask)
        tokenized = time.perf_counter()
        rows = np.array(self._requests[slot].infer(tensors)[0], dtype=np.float32)
        return Output(
            rows=rows.reshape(len(encodings), -1),
            tokens=mask.sum(axis=1).tolist(),
            truncated=[bool(encoding.overflowing) for encoding in encodings],
            padded_tokens=mask.size,
            tokenization=tokenized - started,
            inference=time.perf_counter() - tokenized,
        )

    def warm(self) -> None:
        """Run every request, in the lengths that are usual for it. Slots share their kernels."""
        for slot, request in self._requests.items():
            lengths = {WIDE: _WARM_WIDE, 0: _WARM_SLOTS}.get(slot, _WARM_SLOTS[:1])
            for length in lengths:
                ones = np.ones((1, min(length, self._max_tokens)), np.int64)
                tensors = {"input_ids": ones, "attention_mask": ones, "token_type_ids": np.zeros_like(ones)}
                request.infer({name: array for name, array in tensors.items() if name in self._names})

    def _tensors(self, encodings: "list[Encoding]", mask: np.ndarray) -> dict[str, np.ndarray]:
        tensors = {"input_ids": np.array([encoding.ids for encoding in encodings], dtype=np.int64)}
        tensors["attention_mask"] = mask
        if "token_type_ids" in self._names:
            tensors["token_type_ids"] = np.array([encoding.type_ids for encoding in encodings], dtype=np.int64)
        return tensors


def offsets(tokenizer: Tokenizer, text: str) -> list[Span]:
    """Of all tokens, also of those beyond the length at which the tokenizer cuts: they come as further encodings."""
    # As a batch of one: unlike `encode`, that lets other threads run meanwhile.
    [encoding] = tokenizer.encode_batch([text], add_special_tokens=False)
    return [
        span
        for part in (encoding, *encoding.overflowing)
        for span, real in zip(part.offsets, part.attention_mask, strict=True)
        if real  # the last part is padded
    ]


def _compile(core: ov.Core, model: ov.Model, streams: int, threads: int) -> ov.CompiledModel:
    properties = {
        "INFERENCE_PRECISION_HINT": precision(),
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads,
    }
    return core.compile_model(model, "CPU", properties)


def _padding(tokenizer: Tokenizer) -> dict[str, object]:
    """As the tokenizer's own file says it, to the longest of the batch."""
    if given := tokenizer.padding:
        return {key: given[key] for key in ("direction", "pad_id", "pad_type_id", "pad_token")}
    known = ("[PAD]", "<pad>", "<|endoftext|>")
    token = next((token for token in known if tokenizer.token_to_id(token) is not None), "[PAD]")
    return {"pad_id": tokenizer.token_to_id(token) or 0, "pad_token": token}
