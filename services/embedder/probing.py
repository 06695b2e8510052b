"""Proof that a loaded version computes what its manifest says (I3): the golden texts, by the way of any batch."""

import asyncio

import numpy as np

from diapason import vectors
from diapason.artifact.v1.manifest_pb2 import Manifest
from diapason.vectors import Matrix
from services.embedder.worker.runtime import BadVersion, Input, Outcome, Output
from services.embedder.workers import Worker, WorkerLost

# bf16 against the manifest's float32; measured 0.99998 for all-MiniLM-L6-v2.
COSINE = 0.999
# Of lengths of vectors, relative; of scores, relative, or absolute for those below 1.
TOLERANCE = 0.05


async def probe(worker: Worker, manifest: Manifest) -> None:
    """Compute the golden texts and compare. Raises ``BadVersion``, or ``WorkerLost``; passing means ready."""
    golden = manifest.golden
    inputs: list[Input] = list(golden.texts)
    if golden.queries:
        inputs = list(zip(golden.queries, golden.texts, strict=True))
    if not inputs:
        raise BadVersion("its manifest has no golden texts to prove it by")
    outcome: asyncio.Future[Outcome | Exception] = asyncio.get_running_loop().create_future()
    worker.submit(inputs, True, lambda answer: None if outcome.done() else outcome.set_result(answer))
    answer = await outcome
    if isinstance(answer, WorkerLost):
        raise answer
    if isinstance(answer, Exception):
        raise BadVersion(f"it can't compute its golden texts: {answer}")
    assert isinstance(answer, Output)  # nothing was to be cut
    expected = vectors.from_bytes(golden.vectors, manifest.dimension or 1)
    if answer.rows.shape != expected.shape:
        raise BadVersion(f"it gives vectors of shape {answer.rows.shape} instead of {expected.shape}")
    if not np.isfinite(answer.rows).all():
        raise BadVersion("it gives vectors that are not finite")
    if manifest.dimension:
        _compare_vectors(answer.rows, expected)
    else:
        _compare_scores(answer.rows, expected)


def _compare_vectors(found: Matrix, expected: Matrix) -> None:
    lengths, right = np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1)
    cosine = float(((found * expected).sum(axis=1) / np.maximum(lengths * right, 1e-12)).min())
    if cosine < COSINE:
        raise BadVersion(f"its golden vectors come out at cosine {cosine:.4f} instead of {COSINE}")
    if float(np.abs(lengths / np.maximum(right, 1e-12) - 1).max()) > TOLERANCE:
        raise BadVersion("its golden vectors come out with another length")


def _compare_scores(found: Matrix, expected: Matrix) -> None:
    worst = float((np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max())
    if worst > TOLERANCE:
        raise BadVersion(f"its golden scores differ by {worst:.4f}, more than {TOLERANCE}")
