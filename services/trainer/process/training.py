"""Fine-tuning a model on what people said, steered by queries that it does not train on."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.training_args import BatchSamplers

from services.trainer.domain.examples import Form, Row
from services.trainer.process import estimating
from services.trainer.process.curves import Curves, Validate
from services.trainer.process.exporting import max_tokens
from services.trainer.process.recipes import Recipe, build
from services.trainer.process.spec import JobError, Spec, is_first, say

_LOG_STEPS = 5
# Of a training, after which its state is kept for whoever takes it up again.
_KEPT_EVERY = 0.2
_CHECKPOINTS, _COMPLETE = "trainer", "trainer_state.json"

_SAMPLERS = {
    # Two equal texts in a batch would make a relevant document a negative.
    Form.RANKED: BatchSamplers.NO_DUPLICATES,
    # Each text meets another of its class, and one of another.
    Form.CLASSES: BatchSamplers.GROUP_BY_LABEL,
}
# Documents are trained on so far: half of what the usual encoder reads, and twice as fast. What is published reads all.
_TOKENS = 128

Model = SentenceTransformer | CrossEncoder


class Training:
    """One training of an encoder, in place. Its curves are kept beside its checkpoints."""

    def __init__(self, model: SentenceTransformer, recipe: Recipe, spec: Spec, folder: Path) -> None:
        self._model, self._recipe, self._spec, self._folder = model, recipe, spec, folder

    def run(self, rows: Sequence[Row], texts: dict[str, str], validate: Validate | None) -> Curves:
        """As `train` does, with the recipe's loss over rows of texts."""
        form = self._recipe.form
        spec = replace(self._spec, batch_size=batch_size(form, self._spec.batch_size))
        widest = 1 + max((len(row.documents) for row in rows), default=0)
        return train(
            self._model,
            spec,
            self._folder,
            dataset(rows, shortened(self._model, rows, texts)),
            build(self._recipe, self._model, spec.dimensions),
            validate,
            inputs=spec.batch_size * widest,
            documents=len(texts),
            sampler=_SAMPLERS.get(form, BatchSamplers.BATCH_SAMPLER),
        )


def train(
    model: Model,
    spec: Spec,
    folder: Path,
    rows: Dataset,
    loss: torch.nn.Module,
    validate: Validate | None,
    *,
    inputs: int,
    documents: int,
    sampler: BatchSamplers = BatchSamplers.BATCH_SAMPLER,
) -> Curves:
    """Train; what the model is afterwards are the weights of the epoch that was best on validation queries.

    Taken up again it goes on from the last checkpoint. ``inputs`` are the texts, or pairs, of one step; ``documents``
    those of the collection. Raises ``JobError`` if there is too little room or too few rows, or if the loss or a weight
    stops being a number.
    """
    without_dropout(model)
    _check_room(model, folder, inputs, documents)
    together = int(os.environ.get("WORLD_SIZE", "1"))
    if together > 1 and len(rows) < spec.batch_size * together:  # they leave out what fills no batch of each
        raise _too_few(len(rows), spec.batch_size * together)
    steps = math.ceil(len(rows) / spec.batch_size) * spec.epochs
    arguments_of, trainer_of = _kinds(model)
    arguments = arguments_of(
        output_dir=str(folder / _CHECKPOINTS),
        num_train_epochs=spec.epochs,
        per_device_train_batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        warmup_steps=0.1,
        batch_sampler=sampler,
        bf16=bf16_pays(),
        use_cpu=not torch.cuda.is_available(),
        seed=spec.seed,
        full_determinism=False,
        save_strategy="steps",
        save_steps=max(1, math.ceil(steps * _KEPT_EVERY)),
        save_total_limit=2,
        logging_steps=_LOG_STEPS,
        # Else a loss that is no number would be told as the mean of those before it.
        logging_nan_inf_filter=False,
        report_to=spec.trackers,
        run_name=folder.name,
        disable_tqdm=True,
    )
    curves = Curves(folder / _CHECKPOINTS, model, validate)
    trainer = trainer_of(model=model, args=arguments, train_dataset=rows, loss=loss, callbacks=[curves])
    curves.note = trainer.log
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    if not trainer.state.global_step:  # too few of them differ
        raise _too_few(len(rows), spec.batch_size)
    model.to("cpu")
    check_weights(model)
    if is_first():
        curves.restore_best()
    return curves


def _kinds(model: Model) -> tuple[type[Any], type[Any]]:
    """The classes of its arguments and of its trainer, which take the same."""
    if isinstance(model, SentenceTransformer):
        return SentenceTransformerTrainingArguments, SentenceTransformerTrainer
    return CrossEncoderTrainingArguments, CrossEncoderTrainer


def _check_room(model: Model, folder: Path, inputs: int, documents: int) -> None:
    needed = estimating.need(model, inputs, max_tokens(model), documents, half=bf16_pays())
    say(stage="train", message=f"training takes {estimating.said(needed)}")
    estimating.check(needed, estimating.room(folder))


def batch_size(form: Form, asked: int) -> int:
    """How many rows a batch has: classes come in twos, two at least."""
    return max(4, asked - asked % 2) if form is Form.CLASSES else asked


def check_weights(model: torch.nn.Module) -> None:
    """Raises ``JobError`` if a weight is no number: a short training may end before its loss is looked at."""
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise JobError("training made weights that are no numbers; lower the learning rate")


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


def _too_few(rows: int, batch: int) -> JobError:
    return JobError(f"{rows} rows fill no batch of {batch}; lower the batch size")


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
