"""Contestant: the embedded engine by itself, over as many vectors. `… engine COUNT DIMENSION`."""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import qdrant_edge as qdrant

from benchmarks.players import serve
from services.search.adapters import edge_native as native
from services.search.adapters import points as layout
from services.search.domain.model import Settings
from services.search.ports import Point, Query

_BATCH = 1_000


class Engine:
    """A shard laid out as the service's, with random vectors: what they are does not matter for the time."""

    def __init__(self, folder: Path, count: int, dimension: int) -> None:
        self._dimension = dimension
        self._chance = np.random.default_rng(1)
        self._shard = qdrant.EdgeShard.create(str(folder / "shard"), native.config(dimension, Settings()))
        for start in range(0, count, _BATCH):
            rows = self._vectors(min(_BATCH, count - start))
            points = [
                qdrant.Point(
                    layout.point_id(f"d{start + i}"),
                    {layout.FULL: row.tolist()},
                    layout.payload(Point(f"d{start + i}", start + i, "key", 0, 1, {})),
                )
                for i, row in enumerate(rows)
            ]
            self._shard.update(qdrant.UpdateOperation.upsert_points(points))
        self._shard.optimize()

    def single(self, count: int) -> float:
        """Median seconds of one query for ten points."""
        times = []
        for row in self._vectors(count):
            request = native.request(Query(10, row[None]), self._dimension, Settings())
            started = time.perf_counter()
            found = self._shard.query(request)
            times.append(time.perf_counter() - started)
            assert len(found) == 10
        return statistics.median(times)

    def _vectors(self, count: int) -> "np.typing.NDArray[np.float32]":
        rows = self._chance.normal(size=(count, self._dimension)).astype(np.float32)
        unit: np.typing.NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        engine = Engine(Path(name), int(sys.argv[1]), int(sys.argv[2]))
        serve({"single": engine.single})
