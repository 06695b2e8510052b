"""Shards of several sizes, asked in turns, so that what else the machine does falls on all of them."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.progress import Progress

from benchmarks.players import Player, player
from benchmarks.scale.ask import LIMIT
from benchmarks.scale.contestants import LABELS
from benchmarks.scale.shards import Shard, Shelf


@dataclass(frozen=True)
class Measured:
    """One contestant at one size. Milliseconds are of each round; ``first`` is the pass before those.

    ``calm_p99`` is of each query's fastest round: what is left when the machine does nothing else.
    """

    name: str
    shard: Shard
    recall: float
    p50: list[float]
    p99: list[float]
    first_p99: float
    calm_p99: float
    anonymous: int
    mapped: int

    def per_vector(self, size: int) -> float:
        """Bytes of each vector."""
        return size / self.shard.count

    @property
    def in_memory(self) -> float:
        """Bytes of each vector that are in memory, the evictable ones too."""
        return self.per_vector(self.anonymous + self.mapped)


def measure(contestant: str, sizes: Sequence[int], rounds: int, shelf: Shelf, progress: Progress) -> list[Measured]:
    """All sizes of one contestant. Builds come first, so that none disturbs the queries."""
    truths = [shelf.truth(size) for size in sizes]
    shards = [shelf.shard(contestant, size) for size in sizes]
    name = LABELS[contestant]
    with ExitStack() as stack:
        askers = [
            stack.enter_context(player("benchmarks.scale.ask", str(shard.folder), contestant, str(shelf.queries)))
            for shard in shards
        ]
        passes = [
            [asker.play("ask") for asker in askers]
            for _ in progress.track(range(rounds + 1), description=f"{name}: query")
        ]
        return [
            _measured(name, shard, truth, [each[i] for each in passes], askers[i])
            for i, (shard, truth) in enumerate(zip(shards, truths, strict=True))
        ]


def _measured(name: str, shard: Shard, truth: list[set[str]], passes: list[dict[str, Any]], asker: Player) -> Measured:
    right = sum(len(true & set(found)) for true, found in zip(truth, passes[-1]["found"], strict=True))
    first, *others = [each["milliseconds"] for each in passes]
    return Measured(
        name,
        shard,
        recall=right / (LIMIT * len(truth)),
        p50=[float(np.quantile(each, 0.5)) for each in others],
        p99=[float(np.quantile(each, 0.99)) for each in others],
        first_p99=float(np.quantile(first, 0.99)),
        calm_p99=float(np.quantile(np.min(others, axis=0), 0.99)),
        **asker.play("held"),
    )
