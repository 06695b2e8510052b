"""What an embedder says to the registry, and when."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from diapason.trainer.v1 import registry_pb2, registry_pb2_grpc
from services.embedder.domain.versions import State
from services.embedder.sync import RegistrySync
from services.trainer.domain.model import PublishedVersion
from tests.conftest import Tiny
from tests.support.embedding import Embedding, embedding, publish


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    """Notes the reports and wants what the test says."""

    def __init__(self) -> None:
        self.desired: list[PublishedVersion] = []
        self.reports: list[dict[str, int]] = []
        self.before_answer = asyncio.Event()
        self.before_answer.set()

    async def Sync(
        self, request_iterator: AsyncIterator[registry_pb2.SyncRequest], context: object
    ) -> AsyncIterator[registry_pb2.SyncResponse]:
        async for report in request_iterator:
            self.reports.append({status.version.digest: int(status.state) for status in report.versions})
            if pb.VERSION_STATE_QUIESCING in self.reports[-1].values():
                await self.before_answer.wait()
            yield registry_pb2.SyncResponse(
                desired=[
                    registry_pb2.DesiredVersion(
                        version=VersionRef(model=v.model, number=v.number, digest=v.digest), artifact_path=v.path
                    )
                    for v in self.desired
                ]
            )


@asynccontextmanager
async def told_by(registry: Registry, running: Embedding) -> AsyncIterator[None]:
    server = grpc.aio.server()
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        talking = asyncio.create_task(RegistrySync(running.residents, channel, "here").run())
        yield
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
    await server.stop(0)


async def test_i4_ready_is_reported_once_it_serves_and_leaving_before_it_stops(
    tiny: Tiny, other_tiny: Tiny, tmp_path: Path
) -> None:
    registry = Registry()  # type: ignore[abstract]
    async with embedding(tmp_path / "store", tmp_path / "cache") as running, told_by(registry, running):
        old = publish(tmp_path / "store", tiny.candidate, 1)
        new = publish(tmp_path / "store", other_tiny.candidate, 2)
        registry.desired = [old, new]
        await running.until(new.digest, State.READY)
        wanted = [report[new.digest] for report in registry.reports if new.digest in report]
        assert wanted[0] == pb.VERSION_STATE_WANTED  # while the other one was loaded
        registry.before_answer.clear()
        registry.desired = [new]
        await running.until(old.digest, State.QUIESCING)
        asked = pb.EmbedRequest(version=VersionRef(digest=old.digest), texts=["tbaba"], role=pb.ROLE_DOCUMENT)
        async with asyncio.timeout(10):
            while registry.reports[-1].get(old.digest) != pb.VERSION_STATE_QUIESCING:
                await asyncio.sleep(0.001)
        # The registry knows, and has not answered: who was sent here before is still served.
        assert (await running.stub.Embed(asked)).vectors
        registry.before_answer.set()
        await running.until(old.digest, State.GONE)
        states = [report.get(old.digest) for report in registry.reports]
        assert states.index(pb.VERSION_STATE_READY) < states.index(pb.VERSION_STATE_QUIESCING)


async def test_a_registry_that_does_not_answer_keeps_no_version_here(tiny: Tiny, tmp_path: Path) -> None:
    registry = Registry()  # type: ignore[abstract]
    registry.before_answer.clear()
    async with embedding(tmp_path / "store", tmp_path / "cache") as running, told_by(registry, running):
        version = publish(tmp_path / "store", tiny.candidate, 1)
        registry.desired = [version]
        await running.until(version.digest, State.READY)
        registry.desired = []
        await running.until(version.digest, State.GONE)
        registry.before_answer.set()
