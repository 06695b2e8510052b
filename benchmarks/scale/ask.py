"""A fresh process that only opens a shard and queries it: `… ask FOLDER CONTESTANT QUERIES`."""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as qdrant

from benchmarks.players import serve
from benchmarks.scale import memory
from benchmarks.scale.contestants import settings
from benchmarks.scale.corpus import DIMENSIONS
from services.search.adapters import edge_native as native
from services.search.ports import Query

LIMIT = 10


class Asker:
    """One caller. Queries are a file's, since drawing them here would leave memory behind that isn't the engine's."""

    def __init__(self, folder: Path, contestant: str, queries: Path) -> None:
        self._settings = settings(contestant)
        asked = [Query(LIMIT, vector=vector[np.newaxis]) for vector in np.load(queries)]
        self._requests = [native.request(query, DIMENSIONS, self._settings) for query in asked]
        memory.forget(folder)
        self._folder, self._before = folder, memory.held(folder)
        self._shard = qdrant.EdgeShard.load(str(folder), native.config(DIMENSIONS, self._settings))

    def ask(self) -> dict[str, Any]:
        """Ask all queries one after another: the milliseconds of each, and the ids of each one's results."""
        took, found = [], []
        for request in self._requests:
            began = time.perf_counter()
            points = self._shard.query(request)
            took.append(1e3 * (time.perf_counter() - began))
            found.append([str((point.payload or {})["id"]) for point in points])
        return {"milliseconds": took, "found": found}

    def held(self) -> dict[str, int]:
        """What has come into memory since before the shard was opened."""
        return asdict(memory.held(self._folder).since(self._before))


if __name__ == "__main__":
    asker = Asker(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    serve({"ask": asker.ask, "held": asker.held})
