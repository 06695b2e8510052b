"""The port that runtimes implement, and the choice among them."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from diapason.vectors import Matrix
from services.embedder.domain.splitting import Span
from services.embedder.worker.frames import LoadSpec

# A text with its prompt before it, or a query with a text for rerankers.
Input = str | tuple[str, str]


class Cut(NamedTuple):
    """A text to be cut into passages of so many tokens, special ones and those of its prompt included."""

    prompt: str
    text: str
    max_tokens: int
    overlap_tokens: int


# What an inference process is asked for, by the text.
Work = Input | Cut
# A slot's number, or this for the batch that has the machine to itself.
WIDE = -1


@dataclass(frozen=True)
class Output:
    """One forward pass. ``rows`` is inputs × full dimension, or × 1 for scores; times in seconds."""

    rows: Matrix
    tokens: list[int]
    truncated: list[bool]
    padded_tokens: int
    tokenization: float
    inference: float


@dataclass(frozen=True)
class Passages:
    """A text that was cut. None: prompt and special tokens leave no room for any."""

    spans: list[Span]


# Of one batch; a batch has work of one kind.
Outcome = Output | list[Passages]


class BadVersion(Exception):
    """The files are as the manifest says, but what they hold does not work."""


class Model(Protocol):
    """A loaded version. Slots may run at the same time, each for one thread."""

    @property
    def special_tokens(self) -> int:
        """How many are put around each text."""
        ...

    def offsets(self, text: str) -> list[Span]:
        """Where in a text each of its tokens is, special ones left out, however long it is."""
        ...

    def run(self, inputs: Sequence[Input], slot: int) -> Output:
        """Tokenize, pad to the longest and run one forward pass."""
        ...

    def warm(self) -> None:
        """Run what is costly the first time."""
        ...


@dataclass(frozen=True)
class Description:
    """What computes here, for people, and whether it reads the weights or the OpenVINO files."""

    runtime: str
    device: str
    text: str


def describe(wanted: str) -> Description:
    """Settle on a runtime: the one named, or with "auto" torch where there is a GPU for it, else OpenVINO.

    Raises ``ImportError`` if what is needed is not installed.
    """
    if wanted == "torch" or (wanted == "auto" and _gpu()):
        from services.embedder.worker import torch_runtime

        return Description("torch", torch_runtime.device(), torch_runtime.describe())
    from services.embedder.worker import openvino_runtime

    return Description("openvino", "CPU", openvino_runtime.describe())


def load(what: LoadSpec) -> Model:
    """LoadSpec a version. Raises ``BadVersion``."""
    if what.runtime == "torch":
        from services.embedder.worker.torch_runtime import TorchModel

        return TorchModel(what)
    from services.embedder.worker.openvino_runtime import OpenVinoModel

    return OpenVinoModel(what)


def _gpu() -> bool:
    # Importing torch takes seconds; without a device node there is nothing to find.
    if not Path("/dev/nvidiactl").exists() or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())
