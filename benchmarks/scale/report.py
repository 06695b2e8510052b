"""Rows, a table and a plot of how the contestants grow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.reporting import Row, row
from benchmarks.scale.measure import Measured

RECALL, P99, MEMORY = ">= 0.98", "<= 10", "<= 700"
_COLOURS = {"plain": "#444444", "int8": "#2a6f97", "binary": "#c0563b"}
_COLOUR = "#2a7f62"


def rows(measured: Sequence[Measured]) -> list[Row]:
    """All figures. Goals are asked of compressed vectors, of as many as there are at most."""
    smallest, largest = (pick(each.shard.count for each in measured) for pick in (min, max))
    base = {each.name: each for each in measured if each.shard.count == smallest}
    return [
        made
        for each in measured
        for made in _rows(each, base[each.name], judged=each.shard.count == largest and each.name != "plain")
    ]


def _rows(each: Measured, base: Measured, *, judged: bool) -> list[Row]:
    shard, name = each.shard, f"{each.shard.count:,}, {each.name}"
    slower = [mine / its for mine, its in zip(each.p99, base.p99, strict=True)]
    recall, p99, memory = (RECALL, P99, MEMORY) if judged else (None, None, None)
    return [
        row(f"{name}: upsert", [shard.upsert], "s"),
        row(f"{name}: optimize", [shard.optimize], "s"),
        row(f"{name}: optimize, seconds of all cores", [shard.work], "s"),
        row(f"{name}: own memory at most, while optimizing", [each.per_vector(shard.peak)], "B/vector"),
        row(f"{name}: on disk", [each.per_vector(shard.disk)], "B/vector"),
        row(f"{name}: recall@10", [each.recall], "", each.recall, recall),
        row(f"{name}: p50", each.p50, "ms"),
        row(f"{name}: p99, to that of {base.shard.count:,}", each.p99, "ms", slower, p99),
        row(f"{name}: p99 of fastest rounds, likewise", [each.calm_p99], "ms", each.calm_p99 / base.calm_p99, p99),
        row(f"{name}: p99, first pass, nothing in memory", [each.first_p99], "ms"),
        row(f"{name}: in memory after the queries", [each.in_memory], "B/vector", each.in_memory, memory),
        row(f"{name}: of that not evictable", [each.per_vector(each.anonymous)], "B/vector"),
    ]


def table(measured: Sequence[Measured]) -> Table:
    """A line for each contestant and size."""
    shown = Table(
        "vectors", "stored", "upsert s", "optimize s", "recall@10", "p50 ms", "p99 ms", "disk B", "memory B", "fixed B"
    )
    for each in measured:
        sizes = (each.per_vector(each.shard.disk), each.in_memory, each.per_vector(each.anonymous))
        times = (each.shard.upsert, each.shard.optimize)
        shown.add_row(
            f"{each.shard.count:,}",
            each.name,
            *(f"{seconds:.1f}" for seconds in times),
            f"{each.recall:.3f}",
            *(f"{_median(values):.2f}" for values in (each.p50, each.p99)),
            *(f"{size:,.0f}" for size in sizes),
        )
    return shown


def plot(measured: Sequence[Measured], path: Path) -> None:
    """Four panels over the number of vectors; a line for each contestant."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(10, 7.5))
    for name in dict.fromkeys(each.name for each in measured):
        ours = sorted((each for each in measured if each.name == name), key=lambda each: each.shard.count)
        _lines(panels.flat, ours, name)
    titles = ("build: upsert and optimize, s", "p50 (dashed) and p99, ms", "recall@10")
    for axes, title in zip(panels.flat, (*titles, "B/vector in memory; dashed: not evictable"), strict=True):
        axes.set_title(title, fontsize=10)
        axes.set_xscale("log")
        axes.set_xlabel("vectors")
        axes.grid(alpha=0.3)
    build, query, recall, memory = panels.flat
    build.set_yscale("log")
    query.set_yscale("log")
    memory.set_yscale("log")
    recall.axhline(float(RECALL.split()[1]), color="black", linewidth=1)
    memory.axhline(float(MEMORY.split()[1]), color="black", linewidth=1)
    build.legend(fontsize=8)
    figure.suptitle("The embedded engine, 384 dimensions; black: the goals at the largest size")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _lines(panels: Any, ours: Sequence[Measured], name: str) -> None:
    build, query, recall, memory = panels
    counts, look = [each.shard.count for each in ours], {"color": _COLOURS.get(name, _COLOUR), "marker": "."}
    build.plot(counts, [each.shard.upsert + each.shard.optimize for each in ours], label=name, **look)
    query.plot(counts, [_median(each.p50) for each in ours], linestyle="--", **look)
    query.plot(counts, [_median(each.p99) for each in ours], **look)
    recall.plot(counts, [each.recall for each in ours], **look)
    memory.plot(counts, [each.in_memory for each in ours], **look)
    memory.plot(counts, [each.per_vector(each.anonymous) for each in ours], linestyle="--", **look)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
