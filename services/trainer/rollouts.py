"""Driving one rollout: load, reindex, switch, watch. What fails before the switch changes nothing (I6).

A reranker has no index: its rollout goes without the reindex.
"""

import time

import structlog

from diapason.embedder.v1.embedder_pb2 import VERSION_STATE_FAILED, VERSION_STATE_READY
from diapason.search.v1 import collection_pb2
from services.kit.errors import Conflict, DeadlineExceeded, NotFound, Overloaded, ServiceError, Unavailable
from services.trainer.domain.model import Kind, PublishedVersion, RolloutState
from services.trainer.jobs import Jobs, LostJob, worn_out
from services.trainer.pacing import Interrupted, Shutdown, StopRequested
from services.trainer.peers import Peers
from services.trainer.registry import Registry
from services.trainer.tables import RolloutRow

log = structlog.get_logger()

_POLL_SECONDS = 0.25
_PASSING = (Unavailable, Overloaded, DeadlineExceeded)


class RolloutFailed(Exception):
    """It can't go on; the message is for people."""


def serving(route: collection_pb2.Route, kind: Kind) -> str:
    """The digest of a route's version of a kind; empty where there is none."""
    return route.encoder.digest if kind is Kind.ENCODER else route.reranker.digest


def roll_back(peers: Peers, row: RolloutRow, kind: Kind) -> None:
    """Switch back to what served before a rollout of a kind; if that serves already, there is nothing to do."""
    if serving(peers.collection(row.collection).route, kind) != row.from_digest:
        peers.roll_back(row.collection, row.generation)


class Roller:
    """Executes rollouts. One object serves all threads of a worker."""

    def __init__(
        self,
        jobs: Jobs,
        registry: Registry,
        peers: Peers,
        shutdown: Shutdown,
        watch_seconds: float,
        load_timeout: float,
    ) -> None:
        self._jobs = jobs
        self._registry = registry
        self._peers = peers
        self._shutdown = shutdown
        self._watch_seconds = watch_seconds
        self._load_timeout = load_timeout

    def execute(self, rollout_id: str) -> None:
        """Bring a rollout as far as retiring, if nobody else does."""
        row = self._jobs.claim(RolloutRow, rollout_id)
        if row is None:
            return
        with structlog.contextvars.bound_contextvars(rollout=row.id):
            try:
                if reason := worn_out(row):
                    raise RolloutFailed(reason)
                with self._jobs.held(row):
                    self._drive(row, self._registry.version(row.to_digest))
            except Interrupted:
                self._jobs.let_go(row)
            except LostJob:
                log.warning("another worker has taken the rollout over")
            except StopRequested:
                self._give_up(row, RolloutState.ABORTED, "aborted")
            except (RolloutFailed, ServiceError) as error:
                log.warning("rollout failed", reason=str(error))
                self._give_up(row, RolloutState.FAILED, str(error))
            except Exception as error:
                log.exception("rollout failed")
                self._give_up(
                    row,
                    RolloutState.FAILED,
                    f"internal error ({type(error).__name__}); the worker's log has it",
                )

    def _drive(self, row: RolloutRow, version: PublishedVersion) -> None:
        state = RolloutState(row.state)
        if state is RolloutState.LOADING:
            self._load(row, version)
            reindexed = version.kind is Kind.ENCODER
            row = self._enter(row, RolloutState.REINDEXING if reindexed else RolloutState.SWITCHING)
        if row.state == RolloutState.REINDEXING.value:
            row = self._reindex(row, version)
            row = self._enter(row, RolloutState.SWITCHING)
        if row.state == RolloutState.SWITCHING.value:
            row = self._switch(row, version)
            row = self._enter(row, RolloutState.WATCHING)
        if row.state == RolloutState.WATCHING.value and self._watch(row, version.kind):
            row = self._enter(row, RolloutState.RETIRING)
            self._jobs.update(row, progress=1.0, message="the new version serves; the old one is kept for rollback")

    def _enter(self, row: RolloutRow, state: RolloutState) -> RolloutRow:
        log.info("rollout", state=state.value)
        return self._jobs.enter(row, state)

    def _load(self, row: RolloutRow, version: PublishedVersion) -> None:
        """Wait until every live replica has the version ready."""
        deadline = time.monotonic() + self._load_timeout
        while True:
            replicas = self._registry.replicas()
            said = [versions.get(version.digest, (0, "")) for versions in replicas.values()]
            for name, (state, reason) in zip(replicas, said, strict=True):
                if state == VERSION_STATE_FAILED:
                    raise RolloutFailed(f"embedder {name} refused the version: {reason}")
            ready = sum(state == VERSION_STATE_READY for state, _ in said)
            if said and ready == len(said):
                return
            if time.monotonic() > deadline:
                raise RolloutFailed(f"{ready} of {len(said)} embedders had the version ready in time")
            share = ready / len(said) if said else 0.0
            self._wait(row, share, f"{ready} of {len(said)} embedders have it ready")

    def _reindex(self, row: RolloutRow, version: PublishedVersion) -> RolloutRow:
        """Wait until search has built an index under the version."""
        reindex = None
        while reindex is None:
            try:
                reindex = self._peers.start_reindex(row.collection, version)
            except _PASSING as error:
                self._wait(row, 0.0, str(error))
        row = self._jobs.update(row, reindex_id=reindex.id, index_id=reindex.index)
        while reindex.state == collection_pb2.REINDEX_STATE_RUNNING:
            share = reindex.done / reindex.total if reindex.total else 0.0
            self._wait(row, share, reindex.reason or f"{reindex.done} of {reindex.total} documents")
            try:
                reindex = self._peers.reindex(reindex.id)
            except _PASSING as error:
                self._wait(row, share, str(error))
        if reindex.state == collection_pb2.REINDEX_STATE_CANCELLED:
            raise RolloutFailed("the reindex was cancelled")
        return row

    def _switch(self, row: RolloutRow, version: PublishedVersion) -> RolloutRow:
        """Switch the route, if the version that we replace still serves."""
        while True:
            try:
                route = self._peers.collection(row.collection).route
                if serving(route, version.kind) == row.from_digest:
                    route = self._switched(row, version, route.generation)
            except _PASSING as error:
                self._wait(row, 0.0, str(error))
                continue
            except Conflict:
                continue  # someone switched between our read and our write: look again
            if serving(route, version.kind) != row.to_digest:
                raise RolloutFailed("another version was taken into service meanwhile; start the rollout anew")
            return self._jobs.update(row, generation=route.generation)

    def _switched(self, row: RolloutRow, version: PublishedVersion, generation: int) -> collection_pb2.Route:
        if version.kind is Kind.RERANKER:
            return self._peers.switch_reranker(row.collection, version, generation)
        return self._peers.switch(row.collection, row.index_id, generation)

    def _watch(self, row: RolloutRow, kind: Kind) -> bool:
        """Look at the new version for a while; False if it was rolled back."""
        end = time.monotonic() + self._watch_seconds
        while (left := end - time.monotonic()) > 0:
            states = [versions.get(row.to_digest, (0, ""))[0] for versions in self._registry.replicas().values()]
            if VERSION_STATE_FAILED in states:
                try:
                    roll_back(self._peers, row, kind)
                except _PASSING as error:
                    end += _POLL_SECONDS  # not before it is done
                    row = self._wait(row, 0.0, f"rolling back: {error}", stoppable=False)
                    continue
                self._jobs.end(row, RolloutState.ROLLED_BACK, "an embedder lost the new version; switched back")
                return False
            done = 1 - left / self._watch_seconds
            row = self._wait(row, done, "watching the new version", stoppable=False)
        return True

    def _wait(self, row: RolloutRow, progress: float, message: str, stoppable: bool = True) -> RolloutRow:
        """Note the progress, then pause. Raises ``StopRequested`` if a person wants out before the switch."""
        fresh = self._jobs.update(row, progress=progress, message=message)
        if stoppable and fresh.stop_requested:
            raise StopRequested
        self._shutdown.pause(_POLL_SECONDS)
        return fresh

    def _give_up(self, row: RolloutRow, state: RolloutState, message: str) -> None:
        """End a rollout that has not switched: drop its index, end its lease."""
        try:
            row = self._jobs.update(row)
            if row.reindex_id and row.state != RolloutState.WATCHING.value:
                self._peers.cancel_reindex(row.reindex_id)
        except (ServiceError, LostJob, NotFound) as error:
            log.warning("the unfinished index was left behind", reason=str(error))
        self._jobs.end(row, state, message)
