"""Shards, queries and their true answers below one folder: built when they are not there yet."""

import json
import shutil
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from benchmarks.players import player
from benchmarks.scale import corpus
from benchmarks.scale.ask import LIMIT
from benchmarks.scale.build import document
from benchmarks.scale.contestants import LABELS, key


@dataclass(frozen=True)
class Shard:
    """What was built: seconds that it took (``work``: of all cores, to optimize), and bytes."""

    folder: Path
    count: int
    upsert: float
    optimize: float
    work: float
    peak: int
    disk: int


class Shelf:
    """A folder of them. Its names say all that they depend on, so what is there can be used again."""

    def __init__(self, folder: Path, queries: int, progress: Progress) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._progress = folder, progress
        self.queries = folder / f"queries-{queries}.npy"
        if not self.queries.exists():
            np.save(self.queries, corpus.queries(queries))

    def truth(self, count: int) -> list[set[str]]:
        """Ids of the documents that are nearest to each query among the first ``count``."""
        path = self._folder / f"truth-{self.queries.stem}-{count}.npy"
        if not path.exists():
            numbers = self._nearest(count)
            np.save(path, numbers)
        return [{document(int(number)) for number in row} for row in np.load(path)]

    def shard(self, contestant: str, count: int) -> Shard:
        """The first ``count`` vectors, as a contestant stores them."""
        folder = self._folder / key(contestant, count)
        result = folder.with_suffix(".json")
        if not result.exists():
            result.write_text(json.dumps(self._build(folder, contestant, count)))
        return Shard(folder, count, **json.loads(result.read_text()))

    def _nearest(self, count: int) -> NDArray[np.int64]:
        steps = corpus.nearest(count, np.load(self.queries), LIMIT)
        blocks = -(-count // corpus.BLOCK)
        return deque(self._progress.track(steps, blocks, description=f"{count:,}: true answers"), maxlen=1).pop()

    def _build(self, folder: Path, contestant: str, count: int) -> dict[str, float]:
        # A build that was broken off leaves a folder, but no result.
        shutil.rmtree(folder, ignore_errors=True)
        with player("benchmarks.scale.build", str(folder), contestant) as builder:
            starts = range(0, count, corpus.BLOCK)
            what = f"{count:,}, {LABELS[contestant]}"
            seconds = [
                builder.play("upsert", start=start, count=count - start)
                for start in self._progress.track(starts, description=f"{what}: upsert")
            ]
            task = self._progress.add_task(f"{what}: optimize", total=None)
            finished: dict[str, float] = builder.play("finish")
            self._progress.update(task, total=1, completed=1)
        return {"upsert": sum(seconds), **finished}
