"""The process in which a run's work is done: started, listened to, ended."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import structlog

from services.trainer.pacing import Every, Shutdown
from services.trainer.process import WORKER_PID
from services.trainer.process import spec as files

log = structlog.get_logger()

# How often the run's row is looked at for a request to stop while the job says nothing.
_LOOK_SECONDS = 2.0
_KILL_AFTER_SECONDS = 5.0
# torch and OpenVINO take a while to let go of everything once the job has said its last word.
_TEARDOWN_SECONDS = 60.0


class JobFailed(Exception):
    """The job process ended without a result; the message is for people."""


class JobProcess:
    """One start of the job process over a run's folder.

    ``note`` writes to the run's row; what it raises ends the process. ``losses`` are those that earlier starts told.
    """

    def __init__(self, folder: Path, note: Callable[..., None], shutdown: Shutdown, losses: Sequence[Any] = ()) -> None:
        self._folder, self._note, self._shutdown = folder, note, shutdown
        self._losses = list(losses)

    def run(self, processes: int, environment: Mapping[str, str]) -> None:
        """Run it to its end, passing on its progress. Raises ``JobFailed``."""
        with (self._folder / "job.log").open("w") as job_log:
            process = subprocess.Popen(
                job_command(self._folder, processes),
                stdout=subprocess.PIPE,
                stderr=job_log,
                stdin=subprocess.DEVNULL,
                text=True,
                env={**os.environ, WORKER_PID: str(os.getpid()), **environment},
            )
            try:
                failure = self._follow(process)
                process.wait(_TEARDOWN_SECONDS)
            finally:
                _end(process)
        if process.returncode != 0 or not (self._folder / files.RESULT).exists():
            tail = (self._folder / "job.log").read_text()[-4000:]
            log.error("job process failed", status=process.returncode, log=tail)
            raise JobFailed(failure or _how_it_ended(process.returncode, tail))

    def _follow(self, process: subprocess.Popen[str]) -> str:
        """Note the job's progress until it ends; returns the error it named, if any."""
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        assert process.stdout is not None
        threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
        look, failure = Every(_LOOK_SECONDS), ""
        while True:
            self._shutdown.check()
            changes: dict[str, Any] = {}
            try:
                line = lines.get(timeout=0.25)
            except queue.Empty:
                line = ""
            if line is None:
                return failure
            if line:
                said = json.loads(line)
                failure = said.pop("error", failure)
                if point := said.pop("loss", None):
                    # Taken up again, it tells once more what came after its checkpoint.
                    self._losses = [*(one for one in self._losses if one[0] < point[0]), point]
                    changes["losses"] = self._losses
                changes |= {"seconds_left": 0.0} | said if "stage" in said else said
            if changes or look.due():
                self._note(**changes)


def job_command(folder: Path, processes: int) -> list[str]:
    """What starts the job process; above one, so many that train together, through what accelerate builds on."""
    together = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return [sys.executable, *together, "-m", "services.trainer.process", str(folder)]


def _pump(stream: TextIO, lines: "queue.SimpleQueue[str | None]") -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """Make sure that it has ended, however we came here."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_KILL_AFTER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _how_it_ended(status: int, tail: str) -> str:
    if status < 0:
        hint = "; out of memory is the usual reason" if -status == signal.SIGKILL else ""
        return f"the training process was killed by signal {-status}{hint}"
    last = next((line for line in reversed(tail.splitlines()) if line.strip()), "no message")
    return f"the training process failed: {last.strip()}"
