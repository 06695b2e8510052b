"""What the parts of the benchmark found."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.learning.examining import Marks
from benchmarks.reporting import Row, row


@dataclass(frozen=True)
class Point:
    """One place of a learning curve: so many judgments, a share of them wrong; nDCG@10 and the gate's word by seed."""

    judgments: int
    flipped: float
    values: Sequence[float]
    promoted: Sequence[bool]


@dataclass
class Findings:
    """Rows for the table, and what the plot needs besides. ``base`` is the untrained score that the curve starts at."""

    rows: list[Row] = field(default_factory=list)
    sizes: dict[str, tuple[Marks, Marks]] = field(default_factory=dict)
    curve: list[Point] = field(default_factory=list)
    base: float = 0.0

    def score(self, name: str, value: float, ratio: float | None = None, goal: str | None = None) -> None:
        """A row of one nDCG@10."""
        self.rows.append(row(name, [value], "nDCG@10", ratio, goal))

    def compare(self, name: str, before: Marks, after: Marks) -> None:
        """What a model is like before and after, for the plot too."""
        self.sizes[name] = before, after
        self.show(f"{name}, base", before)
        self.show(f"{name}, tuned", after)

    def show(self, name: str, marks: Marks) -> None:
        """A row for each size of a model, and hybrid; the ratio is to the full size."""
        for size in marks.dense:
            self.score(f"{name}, {size} numbers", marks.mean(size), marks.kept(size))
        self.score(f"{name}, hybrid", marks.mean_hybrid)
