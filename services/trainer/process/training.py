"""Fine-tuning an encoder on what people said.

The other documents of a batch are negatives (Henderson et al. 2017, arXiv:1705.00652), and so
is one that the person refused; the loss is taken at every size at once, so that the head of a
vector works alone (Matryoshka representation learning, Kusupati et al. 2022, arXiv:2205.13147).
"""

import json
import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from sentence_transformers.training_args import BatchSamplers
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from services.trainer.process.spec import CORPUS, TRAIN, JobError, Spec, say

_LOG_STEPS = 5


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All objects of a JSON Lines file."""
    with path.open() as lines:
        return [json.loads(line) for line in lines]


def train(model: SentenceTransformer, spec: Spec, folder: Path) -> None:
    """Train ``model`` in place. Raises ``JobError`` if the loss stops being a number."""
    rows = _rows(read_lines(folder / TRAIN), {d["id"]: d["text"] for d in read_lines(folder / CORPUS)}, spec.seed)
    loss = MatryoshkaLoss(
        model,
        MultipleNegativesRankingLoss(model),
        matryoshka_dims=[int(model.get_embedding_dimension() or 0), *spec.dimensions],
    )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "trainer"),
        num_train_epochs=spec.epochs,
        per_device_train_batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        warmup_steps=0.1,
        # Two equal texts in a batch would make a relevant document a negative.
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        bf16=_bf16_pays(),
        use_cpu=not torch.cuda.is_available(),
        seed=spec.seed,
        save_strategy="no",
        logging_steps=_LOG_STEPS,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=rows, loss=loss, callbacks=[_Progress()]
    )
    trainer.train()


def _rows(examples: list[dict[str, Any]], texts: dict[str, str], seed: int) -> Dataset:
    """Columns anchor, positive and one negative: one of the refused documents, else any that is not relevant."""
    chooser = random.Random(seed)  # noqa: S311
    relevant: dict[str, set[str]] = {}
    for example in examples:
        relevant.setdefault(example["query"], set()).add(example["positive"])
    columns: dict[str, list[str]] = {"anchor": [], "positive": [], "negative": []}
    for example in examples:
        refused = [d for d in example["negatives"] if d in texts]
        candidates = refused or sorted(texts.keys() - relevant[example["query"]])
        if not candidates:
            raise JobError("a query likes every document of the collection; there is nothing to tell apart")
        columns["anchor"].append(example["query"])
        columns["positive"].append(texts[example["positive"]])
        columns["negative"].append(texts[chooser.choice(candidates)])
    return Dataset.from_dict(columns)


def _bf16_pays() -> bool:
    """Whether autocast to bfloat16 is faster here: on a GPU, or a CPU with instructions for it."""
    if torch.cuda.is_available():
        return True
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(name in flags.read_text() for name in ("amx_bf16", "avx512_bf16"))


class _Progress(TrainerCallback):
    """Tells the worker how far it is, and stops a training that has gone astray."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise JobError(f"the loss became {loss} at step {state.global_step}; lower the learning rate")
        say(
            stage="train",
            progress=state.global_step / max(1, state.max_steps),
            message=f"epoch {state.epoch or 0:.1f} of {args.num_train_epochs:g}",
            loss=[state.global_step, float(state.epoch or 0), loss],
        )
