"""Which trackers follow a training, and where those write that write to disk."""

import importlib.util
from pathlib import Path

from services.kit.server import CannotStart

# By the names that transformers knows, each the name of its package too.
TRACKERS = ("tensorboard", "mlflow", "wandb")


def chosen(named: str) -> list[str]:
    """The trackers of a list with commas, each once. Raises ``CannotStart`` for one unknown or not installed."""
    names = list(dict.fromkeys(name.strip().lower() for name in named.split(",") if name.strip()))
    if unknown := [name for name in names if name not in TRACKERS]:
        raise CannotStart(
            f"DIAPASON_TRACKERS names {', '.join(map(repr, unknown))}; known are {', '.join(TRACKERS)}, by commas"
        )
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise CannotStart(
            f"DIAPASON_TRACKERS names {', '.join(missing)}, not installed here; `pip install {' '.join(missing)}`"
        )
    return names


def environment(work_dir: Path, run_id: str) -> dict[str, str]:
    """What trackers read from the environment of a run's process.

    TensorBoard's files are kept beside the runs' folders, since those go when a run has ended.
    """
    return {"TENSORBOARD_LOGGING_DIR": str(work_dir / "tensorboard" / run_id)}
