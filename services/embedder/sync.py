"""The standing conversation with the registry: our versions there, the desired set back."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import grpc
import structlog

from diapason.trainer.v1 import registry_pb2 as pb
from diapason.trainer.v1 import registry_pb2_grpc as rpc
from services.embedder.residents import Desired, Residents
from services.embedder.wire import statuses

log = structlog.get_logger()

# The registry takes a replica for gone after several of these without a report.
REPORT_SECONDS = 2.0
_RECONNECT_SECONDS = 1.0


class RegistrySync:
    """Keeps one `Sync` stream open; without it the versions held go on serving."""

    def __init__(self, residents: Residents, channel: grpc.aio.Channel, replica_id: str) -> None:
        self._residents = residents
        self._stub = rpc.RegistryServiceStub(channel)
        self._replica_id = replica_id
        self._changed = asyncio.Event()
        residents.on_change(self._changed.set)
        residents.announce()

    async def run(self) -> None:
        """Talk to the registry for ever, reconnecting after a pause when it is away."""
        connected = True
        while True:
            try:
                # Each report is answered once, in order: which changes had been made when it was made.
                made: deque[int] = deque()
                async for answer in self._stub.Sync(self._reports(made)):
                    connected = True
                    if made:  # else nothing was asked: an answer to no report says nothing of ours
                        self._residents.told(made.popleft())
                    self._residents.want([_desired(item) for item in answer.desired])
            except grpc.RpcError as error:
                if connected:
                    log.warning("the registry does not answer; serving what is held", error=str(error.code()))
                connected = False
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _reports(self, made: deque[int]) -> AsyncIterator[pb.SyncRequest]:
        while True:
            self._changed.clear()
            made.append(self._residents.changes)
            yield pb.SyncRequest(replica_id=self._replica_id, versions=statuses(self._residents.all()))
            try:
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue


def _desired(item: pb.DesiredVersion) -> Desired:
    version = item.version
    return Desired(version.model, version.number, version.digest, item.artifact_path)
