"""How a training goes: its losses, its scores on validation queries, and the best epoch's weights."""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from services.trainer.process.spec import JobError, is_first, say

# Epochs without a new best score, after which it is enough. One says little: a first epoch may unsettle a model.
_PATIENCE = 2

# The score of the model as it is on the queries that steer.
Validate = Callable[[], float]


class Curves(TrainerCallback):
    """Tells the worker how far it is, keeps the best epoch, and stops a training that has gone astray."""

    def __init__(self, folder: Path, model: torch.nn.Module, validate: Validate | None) -> None:
        self._file, self._best_file = folder / "curves.json", folder / "best.safetensors"
        self._model, self._validate = model, validate
        self._started: tuple[float, int] | None = None
        # How the trackers hear of it, once there is a trainer.
        self.note: Callable[[dict[str, float]], None] | None = None
        self.losses: list[dict[str, float]] = []
        self.validation: list[dict[str, float]] = []
        if self._file.exists():
            kept = json.loads(self._file.read_text())
            self.losses, self.validation = kept["losses"], kept["validation"]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """What was noted after the checkpoint that this goes on from will be noted again."""
        self.losses = [point for point in self.losses if point["step"] <= state.global_step]
        self.validation = [point for point in self.validation if point["step"] <= state.global_step]
        if not self.validation:
            self._look(state)
        self._started = time.monotonic(), state.global_step

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """See how good it is now, and stop where it has not become better for a while."""
        self._look(state)
        scores = [point["ndcg@10"] for point in self.validation]
        if scores and len(scores) - 1 - scores.index(max(scores)) >= _PATIENCE:
            control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Pass the loss on. Raises ``JobError`` if it is no number."""
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise JobError(f"the loss became {loss} at step {state.global_step}; lower the learning rate")
        point = {"step": state.global_step, "epoch": float(state.epoch or 0), "loss": loss}
        self.losses.append(point)
        self._write()
        say(
            stage="train",
            progress=state.global_step / max(1, state.max_steps),
            message=f"epoch {state.epoch or 0:.1f} of {args.num_train_epochs:g}",
            loss=[*point.values()],
            seconds_left=self._seconds_left(state),
        )

    def _seconds_left(self, state: TrainerState) -> float:
        """Of the training, at the pace since it began or was taken up again; looks at validation queries are in it."""
        assert self._started is not None
        since, step = self._started
        pace = (time.monotonic() - since) / max(1, state.global_step - step)
        return pace * max(0, state.max_steps - state.global_step)

    def restore_best(self) -> None:
        """Give the model the weights of the best epoch."""
        if self._best_file.exists():
            self._model.load_state_dict(load_file(self._best_file))

    def _look(self, state: TrainerState) -> None:
        if self._validate is None:
            return
        score = self._validate()
        say(stage="train", message=f"epoch {state.epoch or 0:.0f}: nDCG@10 {score:.3f} on validation queries")
        if self.note:
            # Trackers sort what begins with "eval_"; not all of them take an @ in a name.
            self.note({"eval_ndcg_at_10": score})
        self.validation.append({"step": state.global_step, "epoch": float(state.epoch or 0), "ndcg@10": score})
        if not is_first():  # it sees what the first sees, so that both stop at the same epoch; one writes
            return
        if score >= max(point["ndcg@10"] for point in self.validation):
            _replaced(self._best_file, lambda path: save_file(self._model.state_dict(), path))
        self._write()

    def _write(self) -> None:
        if is_first():
            told = json.dumps({"losses": self.losses, "validation": self.validation})
            _replaced(self._file, lambda path: path.write_text(told))


def _replaced(path: Path, write: Callable[[Path], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    write(partial)
    os.replace(partial, path)
