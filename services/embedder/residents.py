"""The versions that this replica holds, and the way from the desired set to them (I4).

The old version serves until the new one is loaded, warmed and probed. A version that is let
go leaves only when its last request has been answered. A failed load changes nothing else.
"""

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from obstore.store import ObjectStore

from diapason.artifact.v1.manifest_pb2 import Manifest
from services.embedder import fetching
from services.embedder.batcher import Batcher
from services.embedder.domain.versions import Action, Load, Snapshot, State, backoff, next_actions, step
from services.embedder.runtime import BadVersion, Runtime
from services.kit.errors import FailedPrecondition, NotFound
from services.kit.usage import Usage

log = structlog.get_logger()

_LAST_KNOWN = "desired.json"


@dataclass(frozen=True)
class Desired:
    """A version that the registry wants here. ``path`` is within the artifact store."""

    model: str
    number: int
    digest: str
    path: str


class Resident:
    """One version in this replica, from wanted to gone."""

    def __init__(self, desired: Desired) -> None:
        self.desired = desired
        self.state = State.WANTED
        self.reason = ""
        self.failures = 0
        self.retry_at = 0.0
        self.manifest = Manifest()
        self.batcher: Batcher | None = None
        self.usage = Usage()

    def become(self, state: State, reason: str = "") -> None:
        """Go on to the next state of its life."""
        self.state, self.reason = step(self.state, state), reason
        log.info("version", model=self.desired.model, number=self.desired.number, state=state.value, reason=reason)


class Residents:
    """All versions of this replica. Used from the event loop only."""

    def __init__(self, store: ObjectStore, cache: Path, threads: int, queue_capacity: int) -> None:
        self._store = store
        self._cache = cache
        self._threads = threads
        self._queue_capacity = queue_capacity
        self._held: dict[str, Resident] = {}
        self._desired: list[Desired] = []
        self._told = False
        self._wake = asyncio.Event()
        self._watchers: list[Callable[[], None]] = []
        cache.mkdir(parents=True, exist_ok=True)
        self._recall()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after each change of any version's state."""
        self._watchers.append(callback)

    def all(self) -> Sequence[Resident]:
        """Everything that is held or on its way, failures included."""
        return list(self._held.values())

    def settled(self) -> bool:
        """Whether the registry (or the memory of it) was heard, and all it wants has come or failed, not all failed."""
        states = [self._held[d.digest].state if d.digest in self._held else State.WANTED for d in self._desired]
        came = all(state in (State.READY, State.FAILED) for state in states)
        return self._told and came and (not states or State.READY in states)

    def find(self, model: str, number: int, digest: str) -> Resident:
        """The ready version that a request names. Raises ``NotFound`` or ``FailedPrecondition``."""
        for resident in self._held.values():
            known = resident.desired
            if (digest and known.digest == digest) or (not digest and (known.model, known.number) == (model, number)):
                if resident.state is State.READY:
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
        self._wake.set()
        self._changed()

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
            if resident.batcher:
                await resident.batcher.close()

    def _next_actions(self) -> Sequence[Action]:
        now = time.monotonic()
        held = [Snapshot(digest, r.state, r.retry_at - now) for digest, r in self._held.items()]
        return next_actions([d.digest for d in self._desired], held)

    async def _load(self, desired: Desired) -> None:
        resident = self._held.setdefault(desired.digest, Resident(desired))
        if resident.state is State.FAILED:
            self._become(resident, State.WANTED)
        try:
            self._become(resident, State.FETCHING)
            folder = self._cache / desired.digest
            resident.manifest = await asyncio.to_thread(
                fetching.fetch_manifest, self._store, desired.path, desired.digest
            )
            self._become(resident, State.VERIFYING)
            await asyncio.to_thread(fetching.fetch_files, self._store, desired.path, resident.manifest, folder)
            self._become(resident, State.LOADING)
            runtime = await asyncio.to_thread(Runtime, folder, resident.manifest, self._threads)
            self._become(resident, State.WARMING)
            await asyncio.to_thread(runtime.probe)
        except Exception as error:
            resident.failures += 1
            resident.retry_at = time.monotonic() + backoff(resident.failures)
            expected = isinstance(error, BadVersion | fetching.BadArtifact)
            reason = str(error) if expected else f"internal error ({type(error).__name__}); the embedder's log has it"
            self._become(resident, State.FAILED, reason)
            log.warning("version refused", digest=desired.digest, exc_info=not expected)
            return
        resident.failures = 0
        resident.batcher = Batcher(runtime, self._queue_capacity)
        self._become(resident, State.READY)

    async def _unload(self, resident: Resident) -> None:
        if resident.state is State.READY:
            self._become(resident, State.QUIESCING)
            await resident.usage.idle()
            if resident.batcher:
                await resident.batcher.close()
        self._become(resident, State.GONE)
        del self._held[resident.desired.digest]
        await asyncio.to_thread(shutil.rmtree, self._cache / resident.desired.digest, ignore_errors=True)
        self._changed()

    def _become(self, resident: Resident, state: State, reason: str = "") -> None:
        resident.become(state, reason)
        self._changed()

    def _changed(self) -> None:
        for callback in self._watchers:
            callback()

    def _remember(self) -> None:
        """Keep the desired set for a restart without the registry. A full disk must not stop what serves."""
        try:
            temporary = self._cache / (_LAST_KNOWN + ".tmp")
            temporary.write_text(json.dumps([vars(item) for item in self._desired]))
            temporary.rename(self._cache / _LAST_KNOWN)
        except OSError:
            log.exception("the desired set could not be kept")

    def _recall(self) -> None:
        remembered = self._cache / _LAST_KNOWN
        if not remembered.exists():
            return
        try:
            self._desired = [Desired(**item) for item in json.loads(remembered.read_text())]
            self._told = True
        except (ValueError, TypeError):
            log.warning("the desired set that was kept can't be read; waiting for the registry")
