"""Contestant: sentence-transformers in process, float32. `… reference WEIGHTS_FOLDER`."""

import sys
import time

from sentence_transformers import SentenceTransformer

from benchmarks.embedder import texts
from benchmarks.embedder.players import serve

_BATCHES = (16, 32, 64)


def main(folder: str) -> None:
    """Play."""
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)

    def rate(kind: str, count: int, seed: int) -> float:
        """Texts per second at the best batch size."""
        given = getattr(texts, kind)(count, seed)
        return max(_rate(given, size) for size in _BATCHES)

    def _rate(given: list[str], size: int) -> float:
        started = time.perf_counter()
        model.encode(given, batch_size=size, normalize_embeddings=True, show_progress_bar=False)
        return len(given) / (time.perf_counter() - started)

    serve({"rate": rate})


if __name__ == "__main__":
    main(sys.argv[1])
