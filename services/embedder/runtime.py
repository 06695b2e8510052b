"""One loaded version: tokenizer and OpenVINO model. Used by one thread at a time.

Rust tokenizers and infer requests are not shared between threads ("Already borrowed").
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
from tokenizers import Tokenizer

from diapason import vectors
from diapason.artifact.v1.manifest_pb2 import Manifest
from diapason.vectors import Matrix

MODEL_FILE = "openvino/model.xml"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Embedded:
    """One forward pass. ``vectors`` is texts × full dimension, rows of unit length."""

    vectors: Matrix
    token_counts: list[int]
    truncated: list[bool]


class BadVersion(Exception):
    """The files are as the manifest says, but what they hold does not work."""


def precision() -> str:
    """What the CPU computes fast: bf16 where it has instructions for it, else f32."""
    capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "f32"


def describe() -> str:
    """Runtime, release and precision, for people."""
    return f"openvino {ov.__version__.split('-')[0]} {precision()}"


class Runtime:
    """Loads a version from a folder of verified files. Raises ``BadVersion``."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self._manifest = manifest
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
            core = ov.Core()
            properties = {
                "INFERENCE_PRECISION_HINT": precision(),
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
            }
            compiled = core.compile_model(str(folder / MODEL_FILE), "CPU", properties)
        except Exception as error:  # tokenizers and openvino raise plain Exception and RuntimeError
            raise BadVersion(f"it can't be loaded: {error}") from error
        self._tokenizer.enable_truncation(manifest.max_tokens)
        self._tokenizer.enable_padding(pad_id=self._pad_id(), pad_token=self._pad_token())
        self._request = compiled.create_infer_request()
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}

    def embed(self, texts: list[str]) -> Embedded:
        """Tokenize, pad to the longest and run one forward pass."""
        encodings = self._tokenizer.encode_batch(texts)
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64)
        offered = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        inputs = {name: array for name, array in offered.items() if name in self._inputs}
        rows: Matrix = np.array(self._request.infer(inputs)[0], dtype=np.float32)
        return Embedded(
            vectors=rows,
            token_counts=[int(count) for count in mask.sum(axis=1)],
            truncated=[bool(encoding.overflowing) for encoding in encodings],
        )

    def probe(self) -> None:
        """Embed the golden texts and compare. Raises ``BadVersion``; passing means ready."""
        golden = self._manifest.golden
        expected = vectors.from_bytes(golden.vectors, self._manifest.dimension)
        found = self.embed(list(golden.texts)).vectors
        if found.shape != expected.shape:
            raise BadVersion(f"it gives vectors of shape {found.shape} instead of {expected.shape}")
        if not np.isfinite(found).all():
            raise BadVersion("it gives vectors that are not finite")
        closeness = float((found * expected).sum(axis=1).min())
        if closeness < GOLDEN_COSINE:
            raise BadVersion(f"its golden vectors come out at cosine {closeness:.4f} instead of {GOLDEN_COSINE}")

    def _pad_token(self) -> str:
        known = ("[PAD]", "<pad>", "<|endoftext|>")
        return next((token for token in known if self._tokenizer.token_to_id(token) is not None), "[PAD]")

    def _pad_id(self) -> int:
        return self._tokenizer.token_to_id(self._pad_token()) or 0


# bf16 against the manifest's float32; measured 0.99998 for all-MiniLM-L6-v2.
GOLDEN_COSINE = 0.999
