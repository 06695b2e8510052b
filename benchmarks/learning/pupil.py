"""One tuning as a worker does it: the job process over a run's folder, and then the gate."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import say
from services.trainer.domain import gate
from services.trainer.process import spec as files
from services.trainer.process.__main__ import main as work

_TOOK = "took.json"
_COUNTS = ("rows", "train_queries", "validation_queries", "held_out_queries")


class NotTuned(Exception):
    """The job ended without a candidate."""


@dataclass(frozen=True)
class Tuned:
    """What came of a run. ``weights`` is the candidate's folder; ``seconds`` from the job's last start to its end."""

    weights: Path
    verdict: gate.GateResult
    details: dict[str, Any]
    seconds: float

    @property
    def judgments(self) -> int:
        """How many it was given."""
        return int(self.details["data"]["policy"]["judgments"])

    @property
    def told(self) -> dict[str, Any]:
        """What a reader of results should know of it; no text of the data is among it."""
        data = {name: self.details["data"][name] for name in _COUNTS if name in self.details["data"]}
        steered = [{**one, "ndcg@10": round(one["ndcg@10"], 4)} for one in self.details["validation"]]
        mixed = {"validation": steered, "mix": self.details["mix"], "kept": self.details["mix_chosen"]}
        if "blend" in self.details:
            mixed["blend"] = self.details["blend"]
        said = {"verdict": self.verdict.verdict.value, "reason": self.verdict.reason}
        return {"config": self.details["config"], **data, **mixed, **said}


def tune(folder: Path, *, apart: bool = True) -> Tuned:
    """Run the job, unless this folder has seen it through already; in a process of its own if ``apart``.

    Raises ``NotTuned``.
    """
    if not (folder / _TOOK).exists():
        started = time.monotonic()
        if apart:
            _run(folder)
        else:
            work(folder)
        files.write_json(folder / _TOOK, {"seconds": time.monotonic() - started})
    result = json.loads((folder / files.RESULT).read_text())
    before, after = _scores(result)
    details = json.loads((folder / files.DETAILS).read_text())
    guard = _scores(result["guard"]) if "guard" in result else None
    verdict = gate.decide(before, after, gate.GatePolicy(guard=details.get("guard", {}).get("name", "")), guard)
    seconds = json.loads((folder / _TOOK).read_text())["seconds"]
    return Tuned(folder / files.CANDIDATE / files.WEIGHTS, verdict, details, seconds)


def _scores(result: Mapping[str, Any]) -> tuple[gate.Scores, gate.Scores]:
    before, after = ({int(size): metrics for size, metrics in result[name].items()} for name in ("before", "after"))
    return before, after


def _run(folder: Path) -> None:
    with (folder / "job.log").open("w") as log:
        command = [sys.executable, "-m", "services.trainer.process", str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if message := json.loads(line).get("message"):
                    say(f"  {folder.name}: {message}")
    if process.returncode != 0 or not (folder / files.RESULT).exists():
        raise NotTuned(f"{folder.name}: see {folder / 'job.log'}")
