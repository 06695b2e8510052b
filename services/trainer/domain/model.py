"""Runs, versions and rollouts, and the states they go through."""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a model does."""

    ENCODER = "encoder"
    RERANKER = "reranker"


class RunKind(Enum):
    """What a run does."""

    FINE_TUNE = "fine_tune"
    IMPORT = "import"


class RunState(Enum):
    """Where a run is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


RUN_ENDED = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})


class Stage(Enum):
    """What a running run is at."""

    UNSPECIFIED = "unspecified"
    COLLECT = "collect"
    TRAIN = "train"
    EVALUATE = "evaluate"
    EXPORT = "export"
    GATE = "gate"
    PUBLISH = "publish"


class RolloutState(Enum):
    """Where a rollout is in its life."""

    LOADING = "loading"
    REINDEXING = "reindexing"
    SWITCHING = "switching"
    WATCHING = "watching"
    RETIRING = "retiring"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"


# A worker drives these; RETIRING is left to the clock.
ROLLOUT_ACTIVE = frozenset(
    {RolloutState.LOADING, RolloutState.REINDEXING, RolloutState.SWITCHING, RolloutState.WATCHING}
)
ROLLOUT_BEFORE_SWITCH = frozenset({RolloutState.LOADING, RolloutState.REINDEXING, RolloutState.SWITCHING})
ROLLOUT_ENDED = frozenset({RolloutState.DONE, RolloutState.FAILED, RolloutState.ABORTED, RolloutState.ROLLED_BACK})


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. ``policy`` names how feedback becomes judgments.

    ``epochs`` of zero are as many as fit the data, and the best of them is kept; ``dimensions`` besides the full
    one; ``held_out`` is the share of judged queries kept for the gate; ``negatives`` go with each relevant document.
    """

    policy: str = ""
    recipe: str = "auto"
    epochs: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-4
    negatives: int = 3
    dimensions: tuple[int, ...] = ()
    held_out: float = 0.25
    seed: int = 17


@dataclass(frozen=True)
class PublishedVersion:
    """A version in the registry. ``path`` is its folder in the artifact store."""

    model: str
    number: int
    digest: str
    kind: Kind
    path: str
    dimension: int
    dimensions: tuple[int, ...]
    parent_digest: str
    run_id: str
