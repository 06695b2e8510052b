"""Results of benchmarks: one JSON shape, one table, one plot for all of them."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Row:
    """One measured thing. ``value`` is the median of ``runs``; ``goal`` and ``met`` judge the ``ratio``.

    ``goal`` is for example ">= 0.9", and None where nothing is asked.
    """

    name: str
    value: float
    unit: str
    ratio: float | None
    goal: str | None
    met: bool | None
    runs: list[float]


def row(
    name: str, runs: Sequence[float], unit: str, ratios: Sequence[float] | float | None = None, goal: str | None = None
) -> Row:
    """A row from the values of each run. ``ratios``: of each run to what it is compared with, or one overall."""
    several = [ratios] if isinstance(ratios, float | int) else list(ratios or [])
    ratio = statistics.median(several) if several else None
    met = None if goal is None or ratio is None else _meets(ratio, goal)
    shown = [_rounded(value) for value in runs]
    return Row(
        name, _rounded(statistics.median(runs)), unit, None if ratio is None else _rounded(ratio), goal, met, shown
    )


def write(name: str, rows: Sequence[Row], folder: Path = RESULTS, **beside: Any) -> Path:
    """Write ``NAME.json``, with what is given ``beside`` the rows, and say on standard output what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {"machine": machine(), "rows": [asdict(row) for row in rows], **beside}
    path.write_text(json.dumps(content, indent=2) + "\n")
    Console(file=sys.stdout, width=130).print(table(rows))
    return path


def table(rows: Sequence[Row]) -> Table:
    """For a terminal."""
    shown = Table("what", "value", "unit", "ratio", "goal", "met", "runs: least to most")
    for each in rows:
        met = {None: "", True: "yes", False: "no"}[each.met]
        spread = f"{min(each.runs):g} to {max(each.runs):g} ({len(each.runs)})"
        ratio = "" if each.ratio is None else f"{each.ratio:g}"
        shown.add_row(each.name, f"{each.value:g}", each.unit, ratio, each.goal or "", met, spread)
    return shown


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Bars of how near each ratio came to its goal: 1 is the goal, longer is better."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    judged = [each for each in rows if each.goal and each.ratio]
    shares = [_share(each) for each in judged]
    figure, axes = plt.subplots(figsize=(9, 0.55 * len(judged) + 1.2))
    colours = ["#2a7f62" if each.met else "#c0563b" for each in judged]
    axes.barh([each.name for each in judged], shares, color=colours)
    axes.axvline(1, color="black", linewidth=1)
    for i, (each, share) in enumerate(zip(judged, shares, strict=True)):
        axes.text(share, i, f" {each.ratio:g} (goal {each.goal})", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max(shares) * 1.35)
    axes.set_xlabel("share of the goal; at the line it is met")
    axes.set_title(title)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def machine() -> dict[str, Any]:
    """What it ran on, as far as it matters and names nobody."""
    flags = _cpu_flags()
    known = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
    return {
        "processor": platform.machine(),
        "instructions": next((name for name in known if name in flags), "unknown"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
    }


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def _meets(ratio: float, goal: str) -> bool:
    sign, _, bound = goal.partition(" ")
    return ratio >= float(bound) if sign == ">=" else ratio <= float(bound)


def _share(each: Row) -> float:
    assert each.goal
    assert each.ratio
    sign, _, bound = each.goal.partition(" ")
    return each.ratio / float(bound) if sign == ">=" else float(bound) / each.ratio


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
