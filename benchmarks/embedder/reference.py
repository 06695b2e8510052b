"""Contestant: sentence-transformers in process, float32. `… reference WEIGHTS_FOLDER`."""

import sys
import time

from sentence_transformers import SentenceTransformer

from benchmarks import texts
from benchmarks.players import serve

_BATCHES = (16, 32, 64)


def main(folder: str) -> None:
    """Play."""
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    best: dict[str, int] = {}

    def rate(kind: str, count: int, seed: int) -> float:
        """Texts per second at the batch size that is fastest here."""
        given = getattr(texts, kind)(count, seed)
        if kind not in best:
            best[kind] = max(_BATCHES, key=lambda size: _rate(given, size))
        return _rate(given, best[kind])

    def _rate(given: list[str], size: int) -> float:
        started = time.perf_counter()
        model.encode(given, batch_size=size, normalize_embeddings=True, show_progress_bar=False)
        return len(given) / (time.perf_counter() - started)

    serve({"rate": rate})


if __name__ == "__main__":
    main(sys.argv[1])
