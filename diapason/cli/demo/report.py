"""The demo's report: one HTML page with its plots inside."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diapason.cli.demo.measuring import METRICS, Sample
from diapason.cli.output import Problem
from diapason.trainer.v1.rollout_pb2 import Rollout, RolloutState
from diapason.trainer.v1.training_pb2 import Run

_TEMPLATE = Path(__file__).with_name("report.html")
_BEFORE, _AFTER = "#9aa5b1", "#1f6f8b"


def write(path: Path, summary: dict[str, Any], run: Run, swap: Sequence[Sample], rollout: Rollout) -> None:
    """Write the page. Raises ``Problem`` if the extra that draws is not installed."""
    try:
        import jinja2
        import matplotlib as mpl
    except ImportError as error:
        raise Problem(f"the report needs {error.name}; pip install 'diapason[demo]'") from error
    mpl.use("svg")
    plots = {"metrics": _metrics(summary), "loss": _loss(run), "swap": _swap(swap, rollout)}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    path.write_text(page.render(summary=summary, run=run, metrics=METRICS, plots=plots), encoding="utf-8")


def _metrics(summary: dict[str, Any]) -> str:
    figure, axes = _figure()
    labels = [f"{metric}\n{size}" for metric in METRICS for size in ("full", *summary["before"]["dims"])]
    for shift, (name, color) in enumerate((("before", _BEFORE), ("after", _AFTER))):
        found = summary[name]
        heights = [part[metric] for metric in METRICS for part in (found, *found["dims"].values())]
        places = [i + (shift - 0.5) * 0.38 for i in range(len(labels))]
        bars = axes.bar(places, heights, 0.36, label=name, color=color)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylim(0, 1.08)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return _svg(figure)


def _loss(run: Run) -> str:
    figure, axes = _figure()
    axes.plot([point.step for point in run.losses], [point.loss for point in run.losses], color=_AFTER)
    axes.set_xlabel("training step")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    return _svg(figure)


def _swap(swap: Sequence[Sample], rollout: Rollout) -> str:
    figure, axes = _figure()
    begin = min(sample.at for sample in swap)
    generations = sorted({sample.answer.route.generation for sample in swap if sample.answer})
    for generation, color in zip(generations, (_BEFORE, _AFTER), strict=False):
        chosen = [s for s in swap if s.answer and s.answer.route.generation == generation]
        places, heights = [s.at - begin for s in chosen], [s.seconds * 1e3 for s in chosen]
        axes.scatter(places, heights, s=6, color=color, label=f"answered under generation {generation}")
    for event in rollout.history:
        at = event.time.ToMilliseconds() / 1e3 - begin
        if at >= 0:
            axes.axvline(at, color="#cccccc", linewidth=1)
            word = RolloutState.Name(event.state).removeprefix("ROLLOUT_STATE_").lower()
            axes.annotate(word, (at, 1), xycoords=("data", "axes fraction"), rotation=90, fontsize=7, va="top")
    axes.set_xlabel("seconds since the rollout began")
    axes.set_ylabel("milliseconds per search")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, markerscale=3)
    return _svg(figure)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
