"""Fine-tuning an encoder on what people said, steered by queries that it does not train on."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from services.trainer.domain.examples import Form, Row
from services.trainer.process.recipes import Recipe, build
from services.trainer.process.spec import JobError, Spec, say

_LOG_STEPS = 5
# Of a training, after which its state is kept for whoever takes it up again.
_KEPT_EVERY = 0.2
_CHECKPOINTS, _COMPLETE = "trainer", "trainer_state.json"

# Documents are trained on so far: half of what the usual encoder reads, and twice as fast. What is published reads all.
_TOKENS = 128

# Epochs without a new best score, after which it is enough.
_PATIENCE = 3

# The score of the model as it is on the queries that steer.
Validate = Callable[[], float]


class Training:
    """One training of ``model``, in place. Its curves are kept beside its checkpoints."""

    def __init__(self, model: SentenceTransformer, recipe: Recipe, spec: Spec, folder: Path) -> None:
        self._model, self._recipe, self._spec, self._folder = model, recipe, spec, folder

    def run(self, rows: Sequence[Row], texts: dict[str, str], validate: Validate | None) -> "Curves":
        """Train; what the model is afterwards are the weights of the epoch that was best on validation queries.

        Taken up again it goes on from the last checkpoint. Raises ``JobError`` if the loss stops being a number.
        """
        spec = self._spec
        without_dropout(self._model)
        steps = math.ceil(len(rows) / spec.batch_size) * spec.epochs
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(self._folder / _CHECKPOINTS),
            num_train_epochs=spec.epochs,
            per_device_train_batch_size=spec.batch_size,
            learning_rate=spec.learning_rate,
            warmup_steps=0.1,
            # Two equal texts in a batch would make a relevant document a negative.
            batch_sampler=BatchSamplers.NO_DUPLICATES
            if self._recipe.form is Form.RANKED
            else BatchSamplers.BATCH_SAMPLER,
            bf16=bf16_pays(),
            use_cpu=not torch.cuda.is_available(),
            seed=spec.seed,
            full_determinism=False,
            save_strategy="steps",
            save_steps=max(1, math.ceil(steps * _KEPT_EVERY)),
            save_total_limit=2,
            logging_steps=_LOG_STEPS,
            report_to=spec.trackers,
            run_name=self._folder.name,
            disable_tqdm=True,
        )
        curves = Curves(self._folder / _CHECKPOINTS, self._model, validate)
        trainer = SentenceTransformerTrainer(
            model=self._model,
            args=arguments,
            train_dataset=dataset(rows, shortened(self._model, rows, texts)),
            loss=build(self._recipe, self._model, spec.dimensions),
            callbacks=[curves],
        )
        trainer.train(resume_from_checkpoint=last_checkpoint(self._folder))
        curves.restore_best()
        return curves


def dataset(rows: Sequence[Row], texts: dict[str, str]) -> Dataset:
    """Rows as columns of texts. Raises ``JobError`` if there are none."""
    if not rows:
        raise JobError("no row can be made of these judgments: nothing tells relevant documents from others")
    columns: dict[str, list[Any]] = {"query": [row.query for row in rows]}
    for i in range(len(rows[0].documents)):
        columns[f"document_{i}"] = [texts[row.documents[i]] for row in rows]
    if rows[0].label is not None:
        columns["label"] = [row.label for row in rows]
    return Dataset.from_dict(columns)


def shortened(
    model: SentenceTransformer, rows: Sequence[Row], texts: Mapping[str, str], tokens: int = _TOKENS
) -> dict[str, str]:
    """The beginnings of the rows' documents, as far as their first ``tokens`` reach."""
    names = list(dict.fromkeys(name for row in rows for name in row.documents))
    if not names:
        return {}
    found = model.tokenizer(
        [texts[name] for name in names],
        add_special_tokens=False,
        truncation=True,
        max_length=tokens,
        return_offsets_mapping=True,
    )
    ends = (offsets[-1][1] if offsets else 0 for offsets in found["offset_mapping"])
    return {name: texts[name][:end] for name, end in zip(names, ends, strict=True)}


def without_dropout(model: torch.nn.Module) -> None:
    """Train without dropout: on a CPU its random numbers cost more than all else, and attention that has it is slow.

    With ``all-MiniLM-L6-v2`` and texts of 256 tokens that makes a step 2.7 times as fast. Against overfitting there
    are the validation queries. What is saved is not changed: its configuration keeps what it said.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in [name for name, value in vars(module).items() if "dropout" in name and isinstance(value, float)]:
            setattr(module, name, 0.0)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; its state is written last."""
    found = [path.parent for path in (folder / _CHECKPOINTS).glob(f"checkpoint-*/{_COMPLETE}")]
    return str(max(found, key=lambda path: int(path.name.rpartition("-")[2]))) if found else None


def bf16_pays() -> bool:
    """Whether autocast to bfloat16 is faster here: on a GPU, or a CPU with instructions for it."""
    if torch.cuda.is_available():
        return True
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(name in flags.read_text() for name in ("amx_bf16", "avx512_bf16"))


class Curves(TrainerCallback):
    """Tells the worker how far it is, keeps the best epoch, and stops a training that has gone astray."""

    def __init__(self, folder: Path, model: SentenceTransformer, validate: Validate | None) -> None:
        self._file, self._best_file = folder / "curves.json", folder / "best.safetensors"
        self._model, self._validate = model, validate
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
        say(
            stage="train",
            progress=state.global_step / max(1, state.max_steps),
            message=f"epoch {state.epoch or 0:.1f} of {args.num_train_epochs:g}",
            loss=[*point.values()],
        )

    def restore_best(self) -> None:
        """Give the model the weights of the best epoch."""
        if self._best_file.exists():
            self._model.load_state_dict(load_file(self._best_file))

    def _look(self, state: TrainerState) -> None:
        if self._validate is None:
            return
        score = self._validate()
        say(stage="train", message=f"epoch {state.epoch or 0:.0f}: nDCG@10 {score:.3f} on validation queries")
        self.validation.append({"step": state.global_step, "epoch": float(state.epoch or 0), "ndcg@10": score})
        if score >= max(point["ndcg@10"] for point in self.validation):
            _replaced(self._best_file, lambda path: save_file(self._model.state_dict(), path))
        _replaced(
            self._file,
            lambda path: path.write_text(json.dumps({"losses": self.losses, "validation": self.validation})),
        )


def _replaced(path: Path, write: Callable[[Path], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    write(partial)
    os.replace(partial, path)
