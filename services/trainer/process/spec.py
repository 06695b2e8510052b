"""The files between a worker and the job process it starts."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

SPEC, RESULT, CANDIDATE = "spec.json", "result.json", "candidate"
TRAIN, VALIDATION, CORPUS, HELD_OUT = "train.jsonl", "validation.jsonl", "corpus.jsonl", "held_out.jsonl"
# Judged queries with documents of their own, where the gate was given a guard.
GUARD, GUARD_CORPUS = "guard.jsonl", "guard_corpus.jsonl"
POLICY, DETAILS = "policy.json", "details.json"
WEIGHTS, IR, TOKENIZER, DESCRIPTION = "weights", "openvino", "tokenizer.json", "description.json"


@dataclass(frozen=True)
class Spec:
    """What to do. ``base`` and ``current`` are folders of weights, or for an import ``source`` is given.

    ``dimensions`` are the sizes besides the full one; ``model_kind`` is a `Kind` by its value; ``guard`` is the guard
    set's name, on which nDCG@10 may fall by ``guard_margin``. A reranker's run has the folder of the ``encoder`` that
    serves, and an empty ``current`` where no reranker does; ``current_share`` is what that leaves to the first stage.
    """

    kind: str
    source: str = ""
    model_kind: str = "encoder"
    base: str = ""
    current: str = ""
    current_share: float = 0.0
    encoder: str = ""
    dimensions: list[int] = field(default_factory=list)
    recipe: str = ""
    negatives: int = 0
    epochs: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0
    seed: int = 0
    guard: str = ""
    guard_margin: float = 0.0
    trackers: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Leave it for the job."""
        (folder / SPEC).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> "Spec":
        """Take it up."""
        return cls(**json.loads((folder / SPEC).read_text()))


_channel: TextIO = sys.stdout


class JobError(Exception):
    """Something a person can mend; the message says what."""


def take_over_output() -> None:
    """Keep standard output for `say`; whatever libraries print goes to standard error, the job's log."""
    global _channel
    _channel = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All objects of a JSON Lines file."""
    with path.open() as lines:
        return [json.loads(line) for line in lines]


def is_first() -> bool:
    """Whether this is the process that speaks and writes, where several train together."""
    return os.environ.get("RANK", "0") == "0"


def say(**fields: Any) -> None:
    """One line of progress: any of stage, progress (0 to 1), message, loss, seconds_left, error."""
    if not is_first() and "error" not in fields:
        return
    _channel.write(json.dumps(fields) + "\n")
    _channel.flush()


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON Lines file that is there whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    temporary.rename(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is there whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.rename(path)
