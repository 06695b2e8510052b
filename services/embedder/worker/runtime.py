"""The port that runtimes implement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from diapason.vectors import Matrix
from services.embedder.domain.splitting import Span

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
