"""Runs and their marks, each made once: what a stopped benchmark had finished it does not repeat."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.figures import say
from benchmarks.learning import examining, lessons, pupil, reranking
from benchmarks.learning.examining import Marks
from benchmarks.learning.lessons import Sample
from benchmarks.learning.pupil import Tuned
from benchmarks.learning.reranking import Reranked
from services.trainer.domain.model import Kind, TrainingConfig
from services.trainer.process import spec as files
from services.trainer.process.reranking import SHARE


@dataclass(frozen=True)
class Stage:
    """``sources`` are folders in BEIR's layout by name, ``base`` a folder of weights; ``work`` is where all is kept.

    What trains is given a lesson, which lacks the test split; the sources themselves are only for `marks`.
    """

    sources: Mapping[str, Path]
    base: Path
    work: Path
    config: TrainingConfig
    # Each training in a process of its own, as a worker has it.
    apart: bool = True
    # What is worth knowing of each, beside the figures.
    runs: list[dict[str, Any]] = field(default_factory=list)

    def learn(self, name: str, sample: Sample, guard: str = "") -> Tuned:
        """Tune the base on judgments of a source's train split; with another's train split as the guard set."""
        config = replace(self.config, seed=sample.seed)
        settings = json.dumps([asdict(sample), asdict(config)], sort_keys=True)
        label = f"{name}-{sample.judgments or 'all'}-{sample.flipped:g}-{sample.seed}" + (f"-{guard}" if guard else "")
        folder = self.work / "runs" / f"{label}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
        say(f"learning: {label}")
        if not folder.exists():
            lessons.prepare(self._lesson(name), sample, config, self.base, folder)
            if guard:
                lessons.guard(self._lesson(guard), guard, folder)
        return self._tuned(folder, label)

    def judge(self, name: str, sample: Sample, encoder: Path, base: Path, epochs: int = 0) -> Tuned:
        """Tune a reranker on the same, over what an encoder brings first; both are folders of weights."""
        config = replace(self.config, seed=sample.seed, dimensions=(), epochs=epochs, learning_rate=0.0)
        settings = json.dumps([asdict(sample), asdict(config), str(encoder)], sort_keys=True)
        label = f"reranker-{name}-{sample.judgments or 'all'}-{sample.seed}"
        folder = self.work / "runs" / f"{label}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
        say(f"learning: {label}")
        if not folder.exists():
            lessons.prepare(self._lesson(name), sample, config, base, folder)
            spec = files.Spec.read(folder)
            replace(spec, model_kind=Kind.RERANKER.value, encoder=str(encoder), current="").write(folder)
        return self._tuned(folder, label)

    def reranked(self, judge: Tuned, encoder: Path, on: str) -> Reranked:
        """The marks of a reranker over what an encoder brings, on test queries of a source."""
        name = judge.weights.parents[1].name
        say(f"scoring: {name} on {on}")
        share = float(judge.details["config"][SHARE])
        return reranking.examine(judge.weights, share, encoder, self.sources[on], self.work / "marks" / f"{name}.json")

    def _tuned(self, folder: Path, label: str) -> Tuned:
        tuned = pupil.tune(folder, apart=self.apart)
        told = {"run": label, **tuned.told}
        if told not in self.runs:
            self.runs.append(told)
        return tuned

    def _lesson(self, name: str) -> Path:
        lesson = self.work / "lessons" / name
        return lesson if lesson.exists() else lessons.take(self.sources[name], lesson)

    def marks(self, tuned: Tuned | None, on: str) -> Marks:
        """The marks of a candidate, or of the base, on the test split of a source."""
        weights = tuned.weights if tuned else self.base
        name = tuned.weights.parents[1].name if tuned else "base"
        say(f"scoring: {name} on {on}")
        kept = self.work / "marks" / name / f"{on}.json"
        return examining.examine(weights, self.sources[on], self.config.dimensions, kept)
