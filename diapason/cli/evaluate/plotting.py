"""A plot of one evaluation."""

from pathlib import Path
from typing import Any

from diapason.cli.output import Problem
from diapason.evaluation.metrics import DECIDING

_COLORS = ("#123f4f", "#1f6f8b", "#4a7f8f", "#6b7785", "#8a6a3b")


def check() -> None:
    """Raise ``Problem`` if the extra that draws is not installed."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise Problem("--plot needs matplotlib; pip install 'diapason[demo]'") from error
    mpl.use("svg")


def draw(record: dict[str, Any], path: Path) -> None:
    """Bars of nDCG@10 with their intervals: a group for each mode, a colour for each size."""
    from matplotlib.figure import Figure

    ways = record["ways"]
    modes = list(dict.fromkeys(way["mode"] for way in ways))
    sizes = sorted({way["dimensions"] for way in ways}, reverse=True)
    figure = Figure(figsize=(max(5.0, 1.6 + 0.45 * len(ways) + 0.4 * len(modes)), 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    left, ticks = 0.0, []
    labelled: set[int] = set()
    for mode in modes:
        group = [way for way in ways if way["mode"] == mode]
        for place, way in enumerate(group):
            metric, size = way["metrics"][DECIDING], way["dimensions"]
            label = f"{size} dimensions" if size and size not in labelled else None
            labelled.add(size)
            color = _COLORS[sizes.index(size) % len(_COLORS)] if size else "#555555"
            errors = [[max(0.0, metric["mean"] - metric["low"])], [max(0.0, metric["high"] - metric["mean"])]]
            bars = axes.bar(left + place, metric["mean"], 0.9, yerr=errors, color=color, label=label, capsize=2)
            axes.bar_label(bars, fmt="%.3f", fontsize=7, label_type="center", color="white", rotation=90)
        ticks.append(left + (len(group) - 1) / 2)
        left += len(group) + 0.8
    axes.set_xticks(ticks, modes, fontsize=8)
    axes.set_ylabel("nDCG@10")
    axes.set_ylim(0, 1)
    data = record["data"]
    figure.suptitle(f"{data['name']}, split {data['split']}, {record['queries']} queries", fontsize=10)
    if labelled - {0}:
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(labelled), fontsize=8)
    figure.savefig(path, format="svg", metadata={"Date": None})
