"""The plot: scores by size before and after, and what more judgments bring."""

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.learning.examining import Marks
from benchmarks.learning.findings import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BEFORE, _AFTER, _WRONG = "#6b7785", "#2a7f62", "#c0563b"


def draw(found: Findings, path: Path) -> None:
    """One panel for each data set, and one for the learning curve; what was not measured is left out."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    panels = len(found.sizes) + bool(found.curve)
    figure, grid = plt.subplots(1, max(1, panels), figsize=(4 * max(1, panels), 3.8), squeeze=False)
    every = list(grid[0])
    for axes, (name, (before, after)) in zip(every, found.sizes.items(), strict=False):
        _line(axes, before, "base", _BEFORE)
        _line(axes, after, "tuned", _AFTER)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(after.dense), [str(size) for size in after.dense])
        axes.set(title=f"{name}, test queries", xlabel="numbers of a vector", ylabel="nDCG@10")
        axes.legend(loc="lower right", fontsize=8)
    if found.curve:
        _curve(every[-1], found)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _line(axes: "Axes", marks: Marks, label: str, colour: str) -> None:
    means = [marks.mean(size) for size in marks.dense]
    axes.plot(list(marks.dense), means, marker="o", color=colour, label=label)
    for size, mean in zip(marks.dense, means, strict=True):
        axes.annotate(f"{mean:.3f}", (size, mean), (0, 6), textcoords="offset points", ha="center", fontsize=7)
    axes.margins(x=0.12, y=0.15)


def _curve(axes: "Axes", found: Findings) -> None:
    """Each seed is a dot, full if the gate promoted it; the line goes through their means."""
    for share, colour in zip(dict.fromkeys(point.flipped for point in found.curve), (_AFTER, _WRONG), strict=False):
        points = [point for point in found.curve if point.flipped == share]
        label = f"{share:.0%} of the judgments wrong" if share else "judgments as they are"
        means = [sum(point.values) / len(point.values) for point in points]
        axes.plot([point.judgments for point in points], means, color=colour, label=label)
        for point in points:
            for value, promoted in zip(point.values, point.promoted, strict=True):
                inside = colour if promoted else "white"
                axes.plot([point.judgments], [value], "o", color=colour, markerfacecolor=inside, markersize=4)
    axes.axhline(found.base, color=_BEFORE, linewidth=1, label="base")
    axes.set(title="SciFact, test queries (full: promoted)", xscale="log", xlabel="judgments", ylabel="nDCG@10")
    axes.margins(x=0.1, y=0.15)
    axes.legend(loc="best", fontsize=8)
