"""Entry of the job process."""

import os
import sys
import threading
import time
from pathlib import Path

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


def _end_with(parent: int) -> None:
    """End when the worker that started us has ended: another may be at the same run by now."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    os.nice(_NICENESS)
    from services.trainer.process.spec import JobError, say, take_over_output

    take_over_output()
    try:
        main(Path(sys.argv[1]))
    except JobError as error:
        say(error=str(error))
        sys.exit(1)
