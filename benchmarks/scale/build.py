"""A process that builds one shard: `… build FOLDER CONTESTANT`. Parts: `upsert` for each block, then `finish`."""

import hashlib
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import qdrant_edge as qdrant

from benchmarks.players import serve
from benchmarks.scale import corpus, memory
from benchmarks.scale.contestants import settings
from services.search.adapters import edge_native as native
from services.search.adapters import points as layout
from services.search.ports import Point

_BATCH = 500
_LOOK_SECONDS = 0.05


class Builder:
    """A shard that is being filled."""

    def __init__(self, folder: Path, contestant: str) -> None:
        folder.mkdir(parents=True)
        corpus.block(0)
        self._folder, self._before = folder, memory.held(folder)
        self._shard = qdrant.EdgeShard.create(str(folder), native.config(corpus.DIMENSIONS, settings(contestant)))

    def upsert(self, start: int, count: int) -> float:
        """Write the vectors of one block; returns the seconds in the engine."""
        seconds = 0.0
        vectors = corpus.block(start)[:count]
        for first in range(0, len(vectors), _BATCH):
            several = vectors[first : first + _BATCH]
            points = [_point(start + first + i) for i in range(len(several))]
            made = [
                qdrant.Point(layout.point_id(point.document_id), {layout.FULL: vector.tolist()}, layout.payload(point))
                for point, vector in zip(points, several, strict=True)
            ]
            condition = native.not_newer(points)
            began = time.perf_counter()
            self._shard.update(qdrant.UpdateOperation.upsert_points(made, condition))
            seconds += time.perf_counter() - began
        return seconds

    def finish(self) -> dict[str, float]:
        """Merge, compress, build the graph; returns the seconds that took and what it came to."""
        memory.trim()
        began, worked = time.perf_counter(), time.process_time()
        with _peak() as peak:
            self._shard.optimize()
        optimizing, work = time.perf_counter() - began, time.process_time() - worked
        self._shard.flush()
        self._shard.close()
        return {
            "optimize": optimizing,
            "work": work,
            "peak": max(peak) - self._before.anonymous,
            "disk": memory.on_disk(self._folder),
        }


def document(number: int) -> str:
    """The id of a document, from its number."""
    return f"document-{number:08d}"


def _point(number: int) -> Point:
    name = document(number)
    return Point(name, number + 1, hashlib.sha256(name.encode()).hexdigest(), passage=0, passages=1, fields={})


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Looks during the block at what this process holds beyond its files."""
    seen, done = [memory.anonymous_now()], threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_SECONDS):
            seen.append(memory.anonymous_now())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        done.set()
        looking.join()


if __name__ == "__main__":
    builder = Builder(Path(sys.argv[1]), sys.argv[2])
    serve({"upsert": builder.upsert, "finish": builder.finish})
