"""Rollouts."""

import asyncio
from collections.abc import AsyncIterator

from diapason.trainer.v1 import (
    rollout_pb2,
    rollout_pb2_grpc,
)
from services.kit.errors import FailedPrecondition
from services.trainer import wire
from services.trainer.broker import ROLLOUT_TASK, Nudger
from services.trainer.domain.model import (
    ROLLOUT_BEFORE_SWITCH,
    ROLLOUT_ENDED,
    RolloutState,
)
from services.trainer.jobs import Jobs
from services.trainer.peers import Peers
from services.trainer.registry import Registry
from services.trainer.rollouts import roll_back, serving
from services.trainer.servicers.common import Context, changes, find_version
from services.trainer.tables import RolloutRow


class RolloutServicer(rollout_pb2_grpc.RolloutServiceServicer):
    """Rollouts."""

    def __init__(self, jobs: Jobs, registry: Registry, nudger: Nudger, peers: Peers) -> None:
        self._jobs = jobs
        self._registry = registry
        self._nudger = nudger
        self._peers = peers

    async def StartRollout(
        self, request: rollout_pb2.StartRolloutRequest, context: Context
    ) -> rollout_pb2.StartRolloutResponse:
        """Begin to roll a published version out."""
        version = await asyncio.to_thread(find_version, self._registry, request.version)
        collection = await asyncio.to_thread(self._peers.collection, request.collection)
        current = serving(collection.route, version.kind)
        if current == version.digest:
            raise FailedPrecondition(
                "ALREADY_SERVING",
                request.collection,
                f"{request.collection!r} is served by that version already",
            )
        row = await asyncio.to_thread(self._jobs.add_rollout, request.collection, current, version.digest)
        await asyncio.to_thread(self._nudger.nudge, ROLLOUT_TASK, row.id)
        return rollout_pb2.StartRolloutResponse(rollout=await self._rollout(row.id))

    async def GetRollout(
        self, request: rollout_pb2.GetRolloutRequest, context: Context
    ) -> rollout_pb2.GetRolloutResponse:
        """One rollout."""
        return rollout_pb2.GetRolloutResponse(rollout=await self._rollout(request.id))

    async def WatchRollout(
        self, request: rollout_pb2.WatchRolloutRequest, context: Context
    ) -> AsyncIterator[rollout_pb2.WatchRolloutResponse]:
        """Stream changes until the new version serves and was watched, or it ended without."""
        settled = {state.value for state in (*ROLLOUT_ENDED, RolloutState.RETIRING)}
        async for row in changes(lambda: self._jobs.get(RolloutRow, request.id), settled):
            yield rollout_pb2.WatchRolloutResponse(rollout=await asyncio.to_thread(wire.rollout, row, self._registry))

    async def AbortRollout(
        self, request: rollout_pb2.AbortRolloutRequest, context: Context
    ) -> rollout_pb2.AbortRolloutResponse:
        """Ask it to stop before the switch."""
        row = await asyncio.to_thread(self._jobs.get, RolloutRow, request.id)
        if RolloutState(row.state) not in ROLLOUT_BEFORE_SWITCH:
            raise FailedPrecondition(
                "ALREADY_SWITCHED",
                row.id,
                f"rollout {row.id} is {row.state}; what has switched can be rolled back",
            )
        await asyncio.to_thread(self._jobs.request_stop, RolloutRow, request.id)
        return rollout_pb2.AbortRolloutResponse(rollout=await self._rollout(request.id))

    async def RollbackRollout(
        self, request: rollout_pb2.RollbackRolloutRequest, context: Context
    ) -> rollout_pb2.RollbackRolloutResponse:
        """Switch back to what served before."""
        row = await asyncio.to_thread(self._jobs.get, RolloutRow, request.id)
        if row.state not in (RolloutState.WATCHING.value, RolloutState.RETIRING.value):
            raise FailedPrecondition(
                "NOT_SWITCHED", row.id, f"rollout {row.id} is {row.state}; there is nothing to roll back"
            )
        version = await asyncio.to_thread(self._registry.version, row.to_digest)
        await asyncio.to_thread(roll_back, self._peers, row, version.kind)
        await asyncio.to_thread(self._jobs.roll_back, row.id, "rolled back by request")
        return rollout_pb2.RollbackRolloutResponse(rollout=await self._rollout(request.id))

    async def _rollout(self, rollout_id: str) -> rollout_pb2.Rollout:
        row = await asyncio.to_thread(self._jobs.get, RolloutRow, rollout_id)
        return await asyncio.to_thread(wire.rollout, row, self._registry)
