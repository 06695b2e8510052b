"""A real embedder in this process, over a real artifact store, told by the test what to hold."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from obstore.store import from_url

from diapason.artifact.v1.manifest_pb2 import Lineage
from diapason.embedder.v1 import embedder_pb2_grpc as rpc
from services.embedder.__main__ import NAME
from services.embedder.domain.versions import State
from services.embedder.residents import Desired, Residents
from services.embedder.servicer import EmbedderServicer
from services.embedder.settings import EmbedderSettings
from services.kit.server import Host
from services.trainer import artifacts
from services.trainer.domain.model import PublishedVersion


def publish(store_folder: Path, candidate: Path, number: int) -> PublishedVersion:
    """Publish a tiny candidate as a version of the model "tiny"."""
    store_folder.mkdir(exist_ok=True)
    lineage = Lineage(source="test", run_id=f"run-{number}")
    store = from_url(store_folder.as_uri())
    return artifacts.publish(store, candidate, model="tiny", number=number, lineage=lineage)


def desired(version: PublishedVersion) -> Desired:
    """The same, as the registry would want it."""
    return Desired(version.model, version.number, version.digest, version.path)


@dataclass
class Embedding:
    """A running embedder."""

    residents: Residents
    channel: grpc.aio.Channel
    settings: EmbedderSettings

    @property
    def stub(self) -> "rpc.EmbedderServiceAsyncStub":
        return rpc.EmbedderServiceStub(self.channel)

    async def until(self, digest: str, state: State) -> str:
        """Wait until a version is in a state; returns its reason."""
        async with asyncio.timeout(30):
            while True:
                for resident in self.residents.all():
                    if resident.desired.digest == digest and resident.state is state:
                        return resident.reason
                if state is State.GONE and digest not in {r.desired.digest for r in self.residents.all()}:
                    return ""
                await asyncio.sleep(0.01)


@asynccontextmanager
async def embedding(store_folder: Path, cache: Path, **more: int) -> AsyncIterator[Embedding]:
    """Run an embedder for the time of the block."""
    settings = EmbedderSettings.model_validate(
        {"listen": "127.0.0.1:0", "artifacts_url": store_folder.as_uri(), "cache_dir": cache, **more}
    )
    residents = Residents(from_url(settings.artifacts_url), cache, 1, settings.max_queued_texts)
    host = Host(settings)
    host.serve(NAME, rpc.add_EmbedderServiceServicer_to_server, EmbedderServicer(residents, settings, "here"))
    host.background("residents", residents.run)
    port = await host.start(settings.listen)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Embedding(residents, channel, settings)
    assert await host.stop(5), "background work failed"
    await residents.close()
