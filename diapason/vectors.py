"""Vectors on the wire: little-endian float32, row-major."""

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]


def to_bytes(matrix: Matrix) -> bytes:
    """``matrix`` is rows × dimensions."""
    return np.ascontiguousarray(matrix, dtype="<f4").tobytes()


def from_bytes(content: bytes, dimensions: int) -> Matrix:
    """Rows × ``dimensions``. Raises ``ValueError`` if the bytes don't divide into rows."""
    return np.frombuffer(content, dtype="<f4").reshape(-1, dimensions)


def truncated(matrix: Matrix, dimensions: int) -> Matrix:
    """The first ``dimensions`` columns, each row scaled to unit length again."""
    if dimensions in (0, matrix.shape[1]):
        return matrix
    head = matrix[:, :dimensions]
    shortened: Matrix = head / np.maximum(np.linalg.norm(head, axis=1, keepdims=True), 1e-12)
    return shortened
