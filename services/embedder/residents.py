"""The versions that this replica holds, and the way from the desired set to them (I4).

The old version serves until the new one is loaded, warmed and probed. A version that is let
go leaves only when its last request has been answered. A failed load changes nothing else.
"""

import asyncio
import contextvars
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
from obstore.store import ObjectStore

from diapason.artifact.v1.manifest_pb2 import Manifest
from diapason.common.v1.version_pb2 import MODEL_KIND_RERANKER
from services.embedder.domain.batching import TokenEstimate
from services.embedder.domain.versions import (
    Action,
    Load,
    Preserving,
    Snapshot,
    State,
    backoff,
    next_actions,
    step,
)
from services.embedder.fetching import BadArtifact, VersionCache, fetch_manifest
from services.embedder.probing import probe
from services.embedder.scheduler import Scheduler
from services.embedder.worker import frames
from services.embedder.worker.runtime import BadVersion
from services.embedder.workers import Worker, WorkerLost
from services.kit.errors import FailedPrecondition, NotFound
from services.kit.usage import Usage

log = structlog.get_logger()

_LAST_KNOWN = "desired.json"
_NICENESS = 10
# An inference process that ends more often than this within the time is no longer replaced at once.

_MOST_LOSSES, _LOSSES_SECONDS = 5, 60.0
# A version that was ready for so long has shown that it works; failures before that count on.
_STABLE_SECONDS = 600.0
# A registry that doesn't answer must not keep a version here.
_ANNOUNCE_SECONDS = 2.0


@dataclass(frozen=True)
class Desired:
    """A version that the registry wants here. ``path`` is within the artifact store."""

    model: str
    number: int
    digest: str
    path: str


@dataclass(frozen=True)
class Machine:
    """How versions are run here. ``preserving`` and ``attempts`` are the policy of loading."""

    runtime: str
    slots: int
    threads_per_batch: int
    threads: int
    preserving: Preserving = Preserving.AVAILABILITY
    attempts: int = 10


class Resident:
    """One version in this replica, from wanted to gone."""

    def __init__(self, desired: Desired) -> None:
        self.desired = desired
        self.state = State.WANTED
        self.reason = ""
        self.failures = 0
        self.retry_at = 0.0
        self.manifest = Manifest()
        self.estimate = TokenEstimate(1)
        self.worker: Worker | None = None
        self.usage = Usage()
        self.lost_at: list[float] = []
        self.revival: asyncio.Task[None] | None = None
        # Leaving, and whoever sends requests here knows it: no more are taken.
        self.withdrawn = False
        self.recovering = False
        self.ready_since = math.inf
        self.since = self.wanted_since = time.monotonic()

    @property
    def reranker(self) -> bool:
        """Whether it scores pairs instead of embedding texts."""
        return self.manifest.kind == MODEL_KIND_RERANKER

    @property
    def serves(self) -> bool:
        """Ready; or soon again after its process was lost, when requests wait; or leaving, and not yet told so."""
        recovering = self.recovering and self.state in (State.LOADING, State.WARMING)
        leaving = self.state is State.QUIESCING and not self.withdrawn
        return self.state is State.READY or recovering or leaving

    def resident_bytes(self) -> int:
        """Memory of its inference process; 0 without one."""
        return self.worker.resident_bytes() if self.worker else 0


async def _ended(task: "asyncio.Task[None] | None") -> None:
    """Cancel a task, if there is one, and wait for its end."""
    if task:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _lower_priority() -> None:
    """Of the calling thread, for good, where threads have priorities: files are no hurry."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


Watcher = Callable[[], None]
# Called with a version, the state it leaves, and the seconds it was in it.
StageWatcher = Callable[[Resident, str, float], None]


class Residents:
    """All versions of this replica. Used from the event loop only."""

    def __init__(
        self, store: ObjectStore, cache_dir: Path, cache: VersionCache, machine: Machine, scheduler: Scheduler
    ) -> None:
        self._store = store
        self._cache_dir = cache_dir
        self._cache = cache
        self._machine = machine
        self._scheduler = scheduler
        self._held: dict[str, Resident] = {}
        self._desired: list[Desired] = []
        self._told = False
        self._wake = asyncio.Event()
        self._watchers: list[Watcher] = []
        self._stage_watchers: list[StageWatcher] = []
        self._announcing = False
        # How many changes there were, and how many of them are known to whoever reports are for.
        self.changes = self._known_changes = 0
        self._answered = asyncio.Event()
        self._files = ThreadPoolExecutor(1, thread_name_prefix="files", initializer=_lower_priority)
        self._recall()

    def on_change(self, callback: Watcher) -> None:
        """Call ``callback`` after each change of any version's state."""
        self._watchers.append(callback)

    def on_stage(self, callback: StageWatcher) -> None:
        """Call ``callback`` with each stage that a version has left, its name and seconds; also swap, lost, gone."""
        self._stage_watchers.append(callback)

    def all(self) -> Sequence[Resident]:
        """Everything that is held or on its way, failures included."""
        return list(self._held.values())

    def settled(self) -> bool:
        """Whether the registry (or the memory of it) was heard, and all it wants has come or failed, not all failed."""
        states = [self._held[d.digest].state if d.digest in self._held else State.WANTED for d in self._desired]
        came = all(state in (State.READY, State.FAILED) for state in states)
        return self._told and came and (not states or State.READY in states)

    def find(self, model: str, number: int, digest: str) -> Resident:
        """The version that a request names and that serves. Raises ``NotFound`` or ``FailedPrecondition``."""
        for resident in self._held.values():
            known = resident.desired
            if (digest and known.digest == digest) or (not digest and (known.model, known.number) == (model, number)):
                if resident.serves:
                    return resident
                raise FailedPrecondition(
                    "VERSION_NOT_READY",
                    known.digest,
                    f"version {known.number} of {known.model!r} is {resident.state.value} here"
                    + (f": {resident.reason}" if resident.reason else "; try again soon"),
                )
        name = digest or f"{model}/{number}"
        raise NotFound("version", name, "GetInfo lists those that this embedder holds")

    def want(self, desired: Sequence[Desired]) -> None:
        """Take note of what the registry wants, now and after a restart without it."""
        # Silent when nothing is new: each change is reported, and each report is answered with this.
        if self._told and list(desired) == self._desired:
            return
        self._told = True
        if list(desired) != self._desired:
            self._desired = list(desired)
            self._remember()
        self._expect()
        self._wake.set()
        self._changed()

    def announce(self) -> None:
        """From now on someone reports what is held, and says by `told` that a report has arrived."""
        self._announcing = True

    def told(self, changes: int) -> None:
        """A report made after so many ``changes`` has arrived."""
        self._known_changes = changes
        self._answered.set()

    async def run(self) -> None:
        """Work towards the desired set for ever."""
        while True:
            # One step, then a new look: what was wanted may have changed while it was made.
            if actions := self._next_actions():
                if isinstance(actions[0], Load):
                    await self._load(next(d for d in self._desired if d.digest == actions[0].digest))
                else:
                    await self._unload(self._held[actions[0].digest])
                continue
            try:
                async with asyncio.timeout(1.0):
                    await self._wake.wait()
            except TimeoutError:
                continue  # a failed version may be due for another try
            self._wake.clear()

    async def close(self) -> None:
        """Let go of everything, at the end of the process."""
        for resident in self._held.values():
            await _ended(resident.revival)
        workers = [resident.worker for resident in self._held.values() if resident.worker]
        await asyncio.gather(*(worker.stop() for worker in workers))
        self._cache.stop()
        await asyncio.to_thread(self._files.shutdown)

    def _next_actions(self) -> Sequence[Action]:
        now = time.monotonic()
        held = [Snapshot(digest, r.state, r.retry_at - now) for digest, r in self._held.items()]
        return next_actions([d.digest for d in self._desired], held, self._machine.preserving)

    async def _load(self, desired: Desired) -> None:
        resident = self._held[desired.digest]
        if resident.state is State.FAILED:
            self._become(resident, State.WANTED)
        try:
            self._become(resident, State.FETCHING)
            digest = desired.digest
            in_thread = partial(asyncio.get_running_loop().run_in_executor, self._files)
            manifest = await in_thread(fetch_manifest, self._store, desired.path, digest)
            resident.manifest, resident.estimate = manifest, TokenEstimate(manifest.max_tokens)
            in_use = {d.digest for d in self._desired} | self._held.keys()
            await in_thread(self._cache.fetch, self._store, desired.path, digest, manifest, in_use)
            self._become(resident, State.VERIFYING)
            await in_thread(self._cache.verify, digest, manifest)
            self._become(resident, State.LOADING)
            await self._bring_up(resident)
        except Exception as error:
            self._fail(resident, error)
            return
        self._tell_stage(resident, "swap", time.monotonic() - resident.wanted_since)

    async def _bring_up(self, resident: Resident) -> None:
        """A process that has loaded the version and reproduced its golden vectors, at work."""
        manifest, machine = resident.manifest, self._machine
        worker = await Worker.start(
            frames.LoadSpec(
                folder=str(self._cache.path(resident.desired.digest)),
                runtime=machine.runtime,
                reranker=resident.reranker,
                raw=manifest.raw,
                max_tokens=manifest.max_tokens,
                slots=machine.slots,
                threads=machine.threads_per_batch,
                wide_threads=machine.threads,
            )
        )
        try:
            if resident.state is State.LOADING:
                self._become(resident, State.WARMING)
            await probe(worker, manifest)
        except BaseException:
            await worker.stop()
            raise
        worker.on_lost(lambda how: self._lost(resident, how))
        resident.worker = worker
        self._scheduler.attach(resident.desired.digest, worker)
        if resident.state is State.WARMING:
            self._become(resident, State.READY)

    def _lost(self, resident: Resident, how: str) -> None:
        """Its process ended unasked. Another takes its place; requests wait meanwhile."""
        reason = f"its inference process ended ({how})"
        log.error("inference process lost", digest=resident.desired.digest, how=how)
        self._tell_stage(resident, "lost", 0.0)
        resident.worker = None
        now = time.monotonic()
        resident.recovering = True
        # A text that ended it by itself is answered for; the version is not to blame.
        if not self._scheduler.pause(resident.desired.digest):
            resident.lost_at = [*(at for at in resident.lost_at if now - at < _LOSSES_SECONDS), now]
        if resident.state is State.READY:
            self._become(resident, State.LOADING, reason)
        resident.revival = asyncio.create_task(self._revive(resident, reason), context=contextvars.Context())

    async def _revive(self, resident: Resident, reason: str) -> None:
        try:
            if len(resident.lost_at) > _MOST_LOSSES:
                raise WorkerLost(f"{reason}, {len(resident.lost_at)} times within {_LOSSES_SECONDS:.0f} s")
            await self._bring_up(resident)
        except Exception as error:
            if resident.state is State.QUIESCING:
                self._scheduler.detach(resident.desired.digest, reason)
            else:
                self._fail(resident, error)
        self._wake.set()

    def _fail(self, resident: Resident, error: Exception) -> None:
        if time.monotonic() - resident.ready_since > _STABLE_SECONDS:
            resident.failures = 0
        resident.failures += 1
        resident.lost_at.clear()
        resident.recovering = False
        expected = isinstance(error, BadVersion | BadArtifact | WorkerLost)
        # Only a version at fault is given up; a store that is away comes back.
        wait = backoff(resident.failures, attempts=self._machine.attempts if expected else sys.maxsize)
        resident.retry_at = time.monotonic() + wait
        reason = str(error) if expected else f"internal error ({type(error).__name__}); the embedder's log has it"
        self._become(resident, State.FAILED, reason)
        self._scheduler.detach(resident.desired.digest, f"the version failed: {reason}")
        log.warning("version refused", digest=resident.desired.digest, retry_in=wait, exc_info=not expected)

    async def _unload(self, resident: Resident) -> None:
        if resident.state is State.READY:
            self._become(resident, State.QUIESCING)
            await self._announced()
            resident.withdrawn = True
            await resident.usage.idle()
            await _ended(resident.revival)
            self._scheduler.detach(resident.desired.digest, "the version was let go")
            if resident.worker:
                await resident.worker.stop()
        self._become(resident, State.GONE)
        self._tell_stage(resident, "gone", 0.0)
        del self._held[resident.desired.digest]
        self._expect()  # it may have been wanted again while it left
        self._changed()

    async def _announced(self) -> None:
        """Leaving is reported before it begins, as far as anyone listens."""
        if self._announcing:
            leaving = self.changes
            with suppress(TimeoutError):
                async with asyncio.timeout(_ANNOUNCE_SECONDS):
                    # An answer may be to a report of before, which was still on its way.
                    while self._known_changes < leaving:
                        self._answered.clear()
                        await self._answered.wait()

    def _become(self, resident: Resident, state: State, reason: str = "") -> None:
        known, now = resident.desired, time.monotonic()
        left, resident.state, resident.reason = resident.state, step(resident.state, state), reason
        log.info("version", model=known.model, number=known.number, state=state.value, reason=reason)
        self._tell_stage(resident, left.value, now - resident.since)
        resident.since = now
        if state is State.WANTED:
            resident.wanted_since = now
        if state is State.READY:
            resident.ready_since = now
        self._changed()

    def _tell_stage(self, resident: Resident, stage: str, seconds: float) -> None:
        for watcher in self._stage_watchers:
            watcher(resident, stage, seconds)

    def _changed(self) -> None:
        self.changes += 1
        for callback in self._watchers:
            callback()

    def _expect(self) -> None:
        """Hold a place for all that is desired, so that it is seen to be on its way."""
        for item in self._desired:
            self._held.setdefault(item.digest, Resident(item))

    def _remember(self) -> None:
        """Keep the desired set for a restart without the registry. A full disk must not stop what serves."""
        try:
            temporary = self._cache_dir / (_LAST_KNOWN + ".tmp")
            temporary.write_text(json.dumps([vars(item) for item in self._desired]))
            temporary.rename(self._cache_dir / _LAST_KNOWN)
        except OSError:
            log.exception("the desired set could not be kept")

    def _recall(self) -> None:
        remembered = self._cache_dir / _LAST_KNOWN
        if not remembered.exists():
            return
        try:
            self._desired = [Desired(**item) for item in json.loads(remembered.read_text())]
            self._told = True
            self._expect()
        except (ValueError, TypeError):
            log.warning("the desired set that was kept can't be read; waiting for the registry")
