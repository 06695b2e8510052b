"""Pushing one version: its verified weights and its card, through a process that can be stopped."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog
from obstore.store import ObjectStore

from services.kit.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    Overloaded,
    ServiceError,
    Unavailable,
)
from services.trainer import artifacts
from services.trainer.domain.model import PublishedVersion
from services.trainer.hub import card
from services.trainer.hub.upload import Outcome, Upload

log = structlog.get_logger()

_LOOK_SECONDS = 0.1
_RETRY_SECONDS = 10.0
# Beyond its time a push that was killed may have left its folder.
_LEFT_OVER_SECONDS = 3600.0
# It has no one to show a bar to, and tells nobody what it is used for.
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}


@dataclass(frozen=True)
class Push:
    """A version, the repository it goes to, and the gate's numbers of its run for the card."""

    version: PublishedVersion
    repo: str
    private: bool
    gate: Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """How far it is: fetching, uploading ``size_bytes``, or done with the repository's ``url`` and the ``commit``."""

    size_bytes: int = 0
    url: str = ""
    commit: str = ""


class Pusher:
    """Pushes versions, one at a time, each within ``seconds``."""

    def __init__(self, objects: ObjectStore, work_dir: Path, seconds: float) -> None:
        self._objects, self._folder, self._seconds = objects, work_dir / "pushes", seconds
        self._place = threading.Lock()

    async def push(self, what: Push) -> AsyncIterator[Step]:
        """Push, and say how far it is. Whoever stops listening stops it.

        Raises ``Overloaded`` if another push is at work, ``FailedPrecondition`` if the hub will not have it,
        ``Unavailable`` if the hub does not answer, ``NotFound`` if the version's files are gone, and
        ``DeadlineExceeded``.
        """
        loop, stop = asyncio.get_running_loop(), threading.Event()
        said: asyncio.Queue[Step | None] = asyncio.Queue()

        def tell(step: Step) -> None:
            loop.call_soon_threadsafe(said.put_nowait, step)

        def ended(work: asyncio.Task[None]) -> None:
            said.put_nowait(None)
            if stop.is_set() and not work.cancelled():
                work.exception()  # nobody is there to hear of it

        work = asyncio.create_task(asyncio.to_thread(self._push, what, tell, stop))
        work.add_done_callback(ended)
        try:
            while (step := await said.get()) is not None:
                yield step
            await work
        finally:
            stop.set()

    def _push(self, what: Push, tell: Callable[[Step], None], stop: threading.Event) -> None:
        if not self._place.acquire(blocking=False):
            raise Overloaded("another version is being pushed; one goes at a time", _RETRY_SECONDS)
        try:
            until = time.monotonic() + self._seconds
            tell(Step())
            self._folder.mkdir(parents=True, exist_ok=True)
            self._tidy()
            with tempfile.TemporaryDirectory(dir=self._folder) as made:
                folder = self._fetched(what, Path(made))
                if stop.is_set():
                    return
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                tell(Step(size_bytes=size))
                version = what.version
                message = f"{version.model} version {version.number}, {version.digest[:12]}"
                job = Upload(str(folder), what.repo, what.private, message)
                outcome = self._uploaded(job, Path(made) / "log", until, stop)
            if outcome:
                log.info("pushed", version=version.digest, repo=what.repo, commit=outcome.commit)
                tell(Step(size, outcome.url, outcome.commit))
        finally:
            self._place.release()

    def _fetched(self, what: Push, folder: Path) -> Path:
        version = what.version
        name = f"{version.model}/{version.number}"
        try:
            weights = artifacts.fetch_weights(self._objects, version, folder)
            share = artifacts.manifest_of(self._objects, version).first_stage_share
        except FileNotFoundError as error:
            raise NotFound("version with its files", name, "they are no longer in the artifact store") from error
        except artifacts.BrokenArtifact as error:
            raise FailedPrecondition("BROKEN_ARTIFACT", name, f"{error}; it is not pushed") from error
        (weights / "README.md").write_text(card.render(version, what.repo, what.gate, share), encoding="utf-8")
        return weights

    def _uploaded(self, job: Upload, log_file: Path, until: float, stop: threading.Event) -> Outcome | None:
        """What the process answered; None if it was stopped."""
        with log_file.open("w") as written:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.trainer.hub.upload"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                text=True,
                env=os.environ | _QUIET,
            )
        given: str | None = json.dumps(asdict(job))
        with process:
            while True:
                try:
                    answer, _ = process.communicate(given, timeout=_LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    given = None
                    late = time.monotonic() > until
                    if late or stop.is_set():
                        process.kill()
                    if stop.is_set():
                        return None
                    if late:
                        raise DeadlineExceeded(
                            f"the push took longer than {self._seconds:g} s; DIAPASON_PUSH_TIMEOUT_SECONDS allows more"
                        ) from None
        if process.returncode != 0:
            log.error("upload failed", status=process.returncode, log=log_file.read_text()[-4000:])
            raise ServiceError(f"the upload ended with status {process.returncode}; the trainer's log has it")
        outcome = Outcome(**json.loads(answer))
        if outcome.passing:
            raise Unavailable(outcome.reason, _RETRY_SECONDS)
        if outcome.reason:
            raise FailedPrecondition(outcome.rule, job.repo, outcome.reason)
        return outcome

    def _tidy(self) -> None:
        """Remove what pushes left that were killed with their service; another replica's may be at work."""
        before = time.time() - self._seconds - _LEFT_OVER_SECONDS
        for folder in self._folder.iterdir():
            if folder.stat().st_mtime < before:
                shutil.rmtree(folder, ignore_errors=True)
