"""What a training will take of memory and disk, before it begins: better told at once than killed after an hour."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
from sentence_transformers import CrossEncoder, SentenceTransformer

from services.trainer.process.evaluating import RANKING_BYTES
from services.trainer.process.spec import JobError

_GIB = 1 << 30
# Of each weight, in float32: itself, its gradient and AdamW's two moments; then the weights before, the best of an
# epoch and those after, which are mixed.
_COPIES_IN_MEMORY = 4 + 3
# Two checkpoints (weights and two moments each), the best epoch, and the candidate for PyTorch and for OpenVINO.
_COPIES_ON_DISK = 2 * 3 + 1 + 2
# Bytes that a layer keeps for the way back, for each number of a token's hidden state, in 16 bits and without the
# attention matrix, which is not kept: Korthikanti et al., Reducing activation recomputation in large transformer
# models, 2022 (arXiv:2205.05198), equation 1. In 32 bits it is twice that.
_ACTIVATION_BYTES = 34
# Vectors of the collection: by the base, turned, by the current version, and by the candidate.
_SPACES = 4
# Python, torch and OpenVINO with a compiled graph.
_BASE_BYTES = 1 * _GIB
# Left to everything else.
_SPARE = 0.05


@dataclass(frozen=True)
class Need:
    """Bytes at the highest point."""

    memory: int
    disk: int


@dataclass(frozen=True)
class Room:
    """Bytes that are free."""

    memory: int
    disk: int


def need(model: SentenceTransformer | CrossEncoder, texts: int, tokens: int, documents: int, *, half: bool) -> Need:
    """Of a training with so many texts in a step, of so many tokens at most, over a collection of so many documents.

    ``half`` if activations are in 16 bits.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    config = getattr(model.transformers_model, "config", None)
    hidden, layers = getattr(config, "hidden_size", 0), getattr(config, "num_hidden_layers", 0)
    activations = texts * tokens * hidden * layers * _ACTIVATION_BYTES * (1 if half else 2)
    size = model.get_embedding_dimension() if isinstance(model, SentenceTransformer) else 0
    vectors = documents * (int(size or 0) * 4 * _SPACES + RANKING_BYTES)
    return Need(
        memory=_BASE_BYTES + weights * 4 * _COPIES_IN_MEMORY + activations + vectors,
        disk=weights * 4 * _COPIES_ON_DISK,
    )


def room(folder: Path) -> Room:
    """What is free here, for this process and on the folder's disk."""
    memory = psutil.virtual_memory().available
    # A container's bound, where the machine has more (cgroup v2).
    bound, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if bound.exists() and used.exists() and (most := bound.read_text().strip()).isdigit():
        memory = min(memory, max(0, int(most) - int(used.read_text())) + _reclaimable())
    return Room(memory, shutil.disk_usage(folder).free)


def check(needed: Need, free: Room) -> None:
    """Raise ``JobError`` if there is too little room."""
    if needed.memory > free.memory * (1 - _SPARE):
        raise JobError(
            f"training needs about {_gib(needed.memory)} of memory and {_gib(free.memory)} are free; lower the batch "
            "size or the negatives, use the recipe cached-multiple-negatives, or give the worker more memory"
        )
    if needed.disk > free.disk * (1 - _SPARE):
        raise JobError(
            f"training needs about {_gib(needed.disk)} of disk and {_gib(free.disk)} are free in the work folder; "
            "make room there"
        )


def said(needed: Need) -> str:
    """For people."""
    return f"about {_gib(needed.memory)} of memory and {_gib(needed.disk)} of disk"


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"


def _reclaimable() -> int:
    """Of a container's memory what holds only files, which gives way."""
    stat = Path("/sys/fs/cgroup/memory.stat")
    if not stat.exists():
        return 0
    fields = dict(line.split() for line in stat.read_text().splitlines())
    return int(fields.get("inactive_file", 0))
