"""The embedded Qdrant engine: one shard, in one folder, for each index."""

import shutil
import threading
import uuid
from collections.abc import Sequence, Set
from pathlib import Path

import qdrant_edge as qdrant
import structlog

from diapason import vectors as wire
from diapason.vectors import Matrix
from services.search.domain.model import Document, Hit, Index

log = structlog.get_logger()

# Point ids must be UUIDs or integers; this makes one from any document id, always the same.
_NAMESPACE = uuid.UUID("6f1d5c0e-7c0b-4f5e-9d6a-0d1a5a0e7c51")
_FULL = "full"
_PARTIAL, _BROKEN = ".partial", ".broken"


class EdgeEngine:
    """Shards below one folder. A folder belongs to one process at a time (the engine locks it)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def open(self, index: Index) -> "EdgeIndex | None":
        """Open the shard."""
        path = self._folder / index.id
        if not path.exists():
            return None
        try:
            return EdgeIndex(qdrant.EdgeShard.load(str(path)), index)
        except Exception:  # the engine raises nothing more special
            log.exception("a shard can't be opened", index=index.id)
            return None

    def create(self, index: Index) -> "EdgeIndex":
        """Create the shard; an unreadable one is kept beside it for whoever wants to look."""
        path = self._folder / index.id
        if path.exists():
            broken = path.with_name(path.name + _BROKEN)
            shutil.rmtree(broken, ignore_errors=True)
            path.rename(broken)
        sizes = {_FULL: index.dimension, **{str(size): size for size in index.dimensions}}
        config = qdrant.EdgeConfig(
            vectors={
                name: qdrant.EdgeVectorParams(size=size, distance=qdrant.Distance.Cosine)
                for name, size in sizes.items()
            },
            # Without the log a killed process loses every write since the last flush.
            wal_enabled=True,
        )
        # Created under another name, so that a crash leaves no half-made shard under this one.
        partial = path.with_name(path.name + _PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        qdrant.EdgeShard.create(str(partial), config).close()
        partial.rename(path)
        return EdgeIndex(qdrant.EdgeShard.load(str(path)), index)

    def keep_only(self, index_ids: Set[str]) -> None:
        """Delete the folders of shards that were dropped, or half made, when the process ended."""
        for path in self._folder.iterdir():
            if path.name not in index_ids and not path.name.endswith(_BROKEN):
                shutil.rmtree(path, ignore_errors=True)

    def drop(self, index_id: str) -> None:
        """Delete the shard's folder."""
        shutil.rmtree(self._folder / index_id, ignore_errors=True)


class EdgeIndex:
    """One shard."""

    def __init__(self, shard: qdrant.EdgeShard, index: Index) -> None:
        self._shard = shard
        self._dimensions = index.dimensions
        self._writing = threading.Lock()

    def upsert(self, documents: Sequence[Document], vectors: Matrix) -> None:
        """Write points, each with its vector at every size of the index."""
        named = {_FULL: vectors, **{str(size): wire.truncated(vectors, size) for size in self._dimensions}}
        points = [
            qdrant.Point(
                _point_id(document.id),
                {name: matrix[i].tolist() for name, matrix in named.items()},
                {"id": document.id},
            )
            for i, document in enumerate(documents)
        ]
        with self._writing:
            self._shard.update(qdrant.UpdateOperation.upsert_points(points))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points."""
        with self._writing:
            self._shard.update(qdrant.UpdateOperation.delete_points([_point_id(i) for i in ids]))

    def query(self, vector: Matrix, limit: int, dimensions: int) -> list[Hit]:
        """Nearest neighbours by cosine."""
        using = str(dimensions) if dimensions in self._dimensions else _FULL
        request = qdrant.QueryRequest(
            limit=limit, query=qdrant.Query.Nearest(vector[0].tolist(), using=using), with_payload=True
        )
        return [Hit(str((point.payload or {})["id"]), point.score) for point in self._shard.query(request)]

    def count(self) -> int:
        """Points, exactly."""
        return self._shard.count(qdrant.CountRequest(exact=True))

    def optimize(self) -> None:
        """Merge segments and build the graph where a segment is large enough for one."""
        with self._writing:
            self._shard.optimize()

    def flush(self) -> None:
        """Write segments to disk."""
        with self._writing:
            self._shard.flush()

    def close(self) -> None:
        """Flush and unlock the folder."""
        with self._writing:
            self._shard.close()


def _point_id(document_id: str) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, document_id)
