"""What a run's folder holds, and what both kinds of tuning do around it."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.trainer.domain.data import Judged
from services.trainer.process.spec import CORPUS, HELD_OUT, POLICY, TRAIN, VALIDATION, read_lines, say


@dataclass
class Material:
    """What the run's folder holds."""

    ids: list[str]
    texts: dict[str, str]
    train: list[Judged]
    validation: list[Judged]
    held_out: list[Judged]
    policy: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Material":
        """Take it up."""
        texts = {document["id"]: document["text"] for document in read_lines(folder / CORPUS)}
        train, validation, held_out = (
            [Judged(**one) for one in read_lines(folder / name)] for name in (TRAIN, VALIDATION, HELD_OUT)
        )
        policy = json.loads((folder / POLICY).read_text()) if (folder / POLICY).exists() else {}
        return cls(list(texts), texts, train, validation, held_out, policy)


def fix_chance(seed: int) -> None:
    """Begin every generator of chance anew."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # what the libraries draw from
    torch.manual_seed(seed)


def telling(stage: str, begins: float, ends: float) -> Callable[[float], None]:
    """Says how far a stage is, a hundred times at most."""
    told, started = -1, time.monotonic()

    def tell(done: float) -> None:
        nonlocal told
        if int(100 * done) > told:
            told = int(100 * done)
            # What follows in the stage takes about as long as what this is of it.
            left = (time.monotonic() - started) * ((1.0 - begins) / (ends - begins) / done - 1) if done * ends else 0.0
            say(stage=stage, progress=begins + (ends - begins) * done, seconds_left=left)

    return tell
