"""The report's plots, as SVG to be put into a page.

Colours are two of those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people of any colour vision tell
apart; in the page they are variables, so that its style can give others on dark ground. The same report gives the same
bytes.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from services.trainer.domain.details import NDCG, Comparison
from services.trainer.reporting.report import Classification, Distribution, Report, label

BEFORE, AFTER, INK, FAINT = "#d55e00", "#0072b2", "#1d2733", "#8a949e"
_VARIABLES = {BEFORE: "--before", AFTER: "--after", INK: "--ink", FAINT: "--faint"}
# Inches of 72 units: narrow, so that letters can still be read on a phone.
_WIDTH, _HEIGHT = 5.2, 2.8
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "diapason",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
_OWN_STYLE = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_NAMES = re.compile(r'(\bid="|href="#|url\(#)')


def draw(report: Report) -> dict[str, str]:
    """The plots of the parts that the report has, by name: complete ``<svg>`` elements.

    Settings of matplotlib are changed meanwhile, so only one thread may draw at a time.
    """
    with mpl.rc_context(_STYLE):
        return {name: _svg(name, make(report)) for name, make in _FIGURES.items() if _has(report, name)}


def _has(report: Report, name: str) -> bool:
    needed = {
        "lengths": report.data and (report.data.query_tokens or report.data.document_tokens),
        "loss": len(report.training) > 1,
        "validation": report.validation,
        "mix": any(point.ndcg is not None for point in report.mix),
        "blend": report.blend,
        "bars": _deciding(report),
        "intervals": report.gate and report.gate.metrics,
        "gains": report.gains,
        "distributions": report.distributions,
        "roc": report.classification and report.classification.after.roc.x,
        "precision_recall": report.classification and report.classification.after.precision_recall.x,
    }
    return bool(needed[name])


def _deciding(report: Report) -> list[Comparison]:
    return [row for row in report.gate.metrics if row.metric == NDCG] if report.gate else []


def _lengths(report: Report) -> Figure:
    figure, axes = _figure(1.7)
    assert report.data is not None
    rows = [("queries", report.data.query_tokens), ("documents", report.data.document_tokens)]
    shown = [(name, found) for name, found in rows if found]
    for place, (_, (p5, p25, p50, p75, p95)) in enumerate(shown):
        axes.plot([p5, p95], [place, place], color=AFTER, linewidth=1.5)
        axes.plot([p25, p75], [place, place], color=AFTER, linewidth=9, solid_capstyle="butt", alpha=0.55)
        axes.plot([p50], [place], "o", color=INK, markersize=5)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("length (tokens)")
    return figure


def _loss(report: Report) -> Figure:
    figure, axes = _figure()
    axes.plot([p.step for p in report.training], [p.loss for p in report.training], color=AFTER, linewidth=1.5)
    axes.set_xlabel("training step")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=min(0.0, *(p.loss for p in report.training)))
    return figure


def _validation(report: Report) -> Figure:
    figure, axes = _figure()
    axes.plot([p.step for p in report.validation], [p.ndcg for p in report.validation], "o-", color=AFTER, markersize=4)
    axes.set_xlabel("training step")
    axes.set_ylabel(f"{label(NDCG)}, validation queries")
    return figure


def _mix(report: Report) -> Figure:
    points = [(p.weight, p.ndcg) for p in report.mix if p.ndcg is not None]
    return _shares(points, report.mix_chosen, "share of the new weights (0 to 1)")


def _blend(report: Report) -> Figure:
    points = [(p.share, p.ndcg) for p in report.blend]
    return _shares(points, report.blend_chosen, "share of the order left to the first stage (0 to 1)")


def _shares(points: Sequence[tuple[float, float]], chosen: float | None, says: str) -> Figure:
    figure, axes = _figure()
    places = sorted(points)
    axes.plot([share for share, _ in places], [ndcg for _, ndcg in places], "o-", color=AFTER, markersize=4)
    if chosen is not None:
        axes.axvline(chosen, color=INK, linestyle="--", linewidth=1, label="chosen")
        _legend(axes)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel(says)
    axes.set_ylabel(f"{label(NDCG)}, validation queries")
    return figure


def _bars(report: Report) -> Figure:
    figure, axes = _figure()
    rows = _deciding(report)
    for shift, name, color, heights in (
        (-0.2, "before", BEFORE, [row.before for row in rows]),
        (0.2, "after", AFTER, [row.after for row in rows]),
    ):
        bars = axes.bar([place + shift for place in range(len(rows))], heights, 0.38, label=name, color=color)
        if len(rows) <= 6:
            axes.bar_label(bars, fmt="%.3f", fontsize=7.5)
    axes.set_xticks(range(len(rows)), [str(row.dimensions or "reranked") for row in rows])
    axes.set_ylim(0, max(0.1, 1.15 * max(max(row.before, row.after) for row in rows)))
    axes.set_xlabel("dimensions" if any(row.dimensions for row in rows) else "")
    axes.set_ylabel(f"mean {label(NDCG)} (0 to 1)")
    _legend(axes)
    return figure


def _intervals(report: Report) -> Figure:
    assert report.gate is not None
    rows = report.gate.metrics
    figure, axes = _figure(min(12.0, 0.9 + 0.24 * len(rows)))
    axes.axvline(0, color=FAINT, linewidth=1)
    for place, row in enumerate(rows):
        axes.plot([row.low, row.high], [place, place], color=AFTER, linewidth=2)
        axes.plot([row.difference], [place], "o", color=AFTER, markersize=4.5)
    axes.set_yticks(
        range(len(rows)),
        [f"{label(row.metric)}, {row.dimensions}" if row.dimensions else label(row.metric) for row in rows],
    )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("difference, after minus before, with its 95 % interval")
    return figure


def _gains(report: Report) -> Figure:
    assert report.gains is not None
    figure, axes = _figure()
    differences = report.gains.differences
    places = [100 * (place + 0.5) / len(differences) for place in range(len(differences))]
    colors = [AFTER if difference >= 0 else BEFORE for difference in differences]
    axes.bar(places, differences, 100 / len(differences), color=colors)
    axes.axhline(0, color=FAINT, linewidth=1)
    axes.set_xlim(0, 100)
    axes.set_xlabel("held-out queries, the greatest gain first (%)")
    axes.set_ylabel(f"difference in {label(NDCG)}")
    return figure


def _distributions(report: Report) -> Figure:
    found = report.distributions
    assert found is not None
    figure = Figure(figsize=(_WIDTH, 3.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, sharey=True)
    for axes, name, part in ((above, "before", found.before), (below, "after", found.after)):
        _distribution(axes, found.edges, part)
        axes.set_ylabel(f"{name}: share (%)")
    scale = "0 to 1" if report.model_kind == "reranker" else "cosine"
    below.set_xlabel(f"score of a query and a document ({scale})")
    _legend(above)
    return figure


def _distribution(axes: Axes, edges: Sequence[float], part: Distribution) -> None:
    for name, shares, color, line in (
        ("disliked", part.disliked_shares, BEFORE, "--"),
        ("liked", part.liked_shares, AFTER, "-"),
    ):
        heights = [100 * share for share in shares]
        axes.stairs(heights, edges, fill=True, color=color, alpha=0.25)
        axes.stairs(heights, edges, color=color, linestyle=line, linewidth=1.5, label=name)


def _roc(report: Report) -> Figure:
    assert report.classification is not None
    figure, axes = _curves(report.classification, "roc", "default")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":", label="chance")
    axes.set_xlabel("false-positive rate (0 to 1)")
    axes.set_ylabel("true-positive rate (0 to 1)")
    _legend(axes)
    return figure


def _precision_recall(report: Report) -> Figure:
    found = report.classification
    assert found is not None
    figure, axes = _curves(found, "precision_recall", "steps-pre")
    axes.axhline(found.relevant / found.pairs, color=FAINT, linewidth=1, linestyle=":", label="chance")
    axes.set_xlabel("recall (0 to 1)")
    axes.set_ylabel("precision (0 to 1)")
    _legend(axes)
    return figure


def _curves(found: Classification, curve: str, steps: str) -> tuple[Figure, Axes]:
    figure, axes = _figure(3.4)
    for name, part, color, line in (("before", found.before, BEFORE, "--"), ("after", found.after, AFTER, "-")):
        points = getattr(part, curve)
        axes.plot(points.x, points.y, line, color=color, label=name, linewidth=1.5, drawstyle=steps)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.05)
    return figure, axes


def _figure(height: float = _HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def _svg(name: str, figure: Figure) -> str:
    """One element whose names are unlike those of the page's other plots, and whose colours the page may change."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = _OWN_STYLE.sub("", text[text.index("<svg") :])
    text = _NAMES.sub(rf"\g<1>{name}-", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text.replace("<svg ", '<svg aria-hidden="true" ', 1)


_FIGURES: dict[str, Callable[[Report], Figure]] = {
    "lengths": _lengths,
    "loss": _loss,
    "validation": _validation,
    "mix": _mix,
    "blend": _blend,
    "bars": _bars,
    "intervals": _intervals,
    "gains": _gains,
    "distributions": _distributions,
    "roc": _roc,
    "precision_recall": _precision_recall,
}
NAMES = tuple(_FIGURES)
