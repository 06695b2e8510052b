"""Entry of the job process."""

import os
import sys
import threading
import time
from pathlib import Path

import psutil

from services.trainer.process import WORKER_PID

# Lower than everything that serves: training may take what is left of the cores.
_NICENESS = 10
_LOOK_SECONDS = 0.5


def main(folder: Path) -> None:
    """Do what the folder's spec says."""
    from services.trainer.domain.model import Kind
    from services.trainer.process import exporting, loading, reranking, tuning
    from services.trainer.process.spec import CANDIDATE, RESULT, Spec, say, write_json

    spec = Spec.read(folder)
    if spec.kind == "import":
        say(stage="export", progress=0.1, message=f"loading {spec.source}")
        imported = loading.load(spec.source, Kind(spec.model_kind))
        exporting.export(imported, spec.dimensions, folder / CANDIDATE)
        write_json(folder / RESULT, {})
        return
    if spec.model_kind == Kind.RERANKER.value:
        reranking.tune(spec, folder)
    else:
        tuning.tune(spec, folder)


def _end_with(parent: int, worker: int) -> None:
    """End when the worker has ended, or who started us for it: another may be at the same run by now."""
    while os.getppid() == parent and psutil.pid_exists(worker):
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    # Where several train together, a launcher stands between the worker and them.
    worker = int(os.environ.get(WORKER_PID, os.getppid()))
    threading.Thread(target=_end_with, args=(os.getppid(), worker), daemon=True).start()
    os.nice(_NICENESS)
    from services.trainer import room
    from services.trainer.process.spec import JobError, say, take_over_output

    take_over_output()
    try:
        main(Path(sys.argv[1]))
    except JobError as error:
        say(error=str(error))
        sys.exit(1)
    except Exception as error:
        if full := room.said(error, Path(sys.argv[1])):
            say(error=full)
        raise
