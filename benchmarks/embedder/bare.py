"""Contestant: OpenVINO and tokenizers in a plain loop, the ceiling. `… bare FOLDER MAX_TOKENS THREADS`."""

import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from tokenizers import Tokenizer

from benchmarks import texts
from benchmarks.players import serve

# With a stream for each thread, each tokenizes its own, as the embedder's do.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The best of these, on one wide stream or on one stream for each thread, is found first and then used.
_BATCHES = {"documents": (2, 4, 16), "queries": (16, 32)}


class Bare:
    """One model, compiled for one batch on all threads, and for one batch on each."""

    def __init__(self, folder: Path, max_tokens: int, threads: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.enable_padding()
        core = ov.Core()
        precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
        self._threads = threads
        self._best: dict[str, tuple[int, int]] = {}

        def compiled(streams: int) -> Any:
            options = {
                "INFERENCE_PRECISION_HINT": precision,
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": threads,
            }
            return core.compile_model(str(folder / "openvino" / "model.xml"), "CPU", options)

        self._wide = compiled(1).create_infer_request()
        side_by_side = compiled(threads)
        self._names = {name for port in side_by_side.inputs for name in port.get_names()}
        self._requests = [side_by_side.create_infer_request() for _ in range(threads)]

    def rate(self, kind: str, count: int, seed: int) -> float:
        """Texts per second, sorted by length, in the way that is fastest here."""
        return self._fastest(kind, sorted(getattr(texts, kind)(count, seed), key=len))

    def rate_of(self, given: Sequence[str]) -> float:
        """The same for documents that are given."""
        return self._fastest("documents", sorted(given, key=len))

    def _fastest(self, kind: str, given: Sequence[str]) -> float:
        if kind not in self._best:
            ways = [(size, streams) for size in _BATCHES[kind] for streams in {1, self._threads}]
            some = given[:: max(4, len(given) // 150)]
            rates = {way: statistics.median(self._rate(some, *way) for _ in range(3)) for way in ways}
            self._best[kind] = max(ways, key=rates.__getitem__)
        return self._rate(given, *self._best[kind])

    def single(self, count: int, seed: int) -> float:
        """Median seconds of one query."""
        times = []
        for query in texts.queries(count, seed):
            started = time.perf_counter()
            self._embed([query], self._wide)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def _rate(self, given: Sequence[str], size: int, streams: int) -> float:
        batches = [given[start : start + size] for start in range(0, len(given), size)]
        requests = self._requests if streams > 1 else [self._wide]
        started = time.perf_counter()
        with ThreadPoolExecutor(streams) as pool:
            shares = [batches[i::streams] for i in range(streams)]
            list(pool.map(lambda share, request: [self._embed(b, request) for b in share], shares, requests))
        return len(given) / (time.perf_counter() - started)

    def _embed(self, batch: Sequence[str], request: Any) -> Any:
        encodings = self._tokenizer.encode_batch(list(batch))
        ids = np.array([encoding.ids for encoding in encodings], np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
        offered = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return request.infer({name: array for name, array in offered.items() if name in self._names})[0]


if __name__ == "__main__":
    bare = Bare(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    serve({"rate": bare.rate, "rate_of": bare.rate_of, "single": bare.single})
