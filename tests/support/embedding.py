"""A real embedder in this process, over a real artifact store, told by the test what to hold."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from obstore.store import from_url

from diapason.artifact.v1.manifest_pb2 import Lineage
from diapason.embedder.v1 import embedder_pb2_grpc as rpc
from services.embedder.__main__ import NAME, assemble
from services.embedder.domain.versions import State
from services.embedder.metrics import LiveGauges
from services.embedder.residents import Desired, Residents
from services.embedder.settings import EmbedderSettings
from services.kit.server import Host
from services.trainer import artifacts
from services.trainer.domain.model import PublishedVersion
from tests.conftest import Tiny


def publish(store_folder: Path, candidate: Path, number: int) -> PublishedVersion:
    """Publish a tiny candidate as a version of the model "tiny"."""
    store_folder.mkdir(exist_ok=True)
    lineage = Lineage(source="test", run_id=f"run-{number}")
    store = from_url(store_folder.as_uri())
    return artifacts.publish(store, candidate, model="tiny", number=number, lineage=lineage)


def changed(tiny: Tiny, folder: Path, description: Mapping[str, object], tokenizer: Mapping[str, object]) -> Path:
    """A copy of a candidate with other golden texts and another tokenizer model."""
    shutil.copytree(tiny.candidate, folder)
    for name, part, changes in (("description.json", None, description), ("tokenizer.json", "model", tokenizer)):
        content = json.loads((folder / name).read_text())
        (content[part] if part else content).update(changes)
        (folder / name).write_text(json.dumps(content))
    return folder


def desired(version: PublishedVersion) -> Desired:
    """The same, as the registry would want it."""
    return Desired(version.model, version.number, version.digest, version.path)


@dataclass
class Embedding:
    """A running embedder."""

    residents: Residents
    address: str
    channel: grpc.aio.Channel
    settings: EmbedderSettings
    gauges: LiveGauges

    @property
    def stub(self) -> "rpc.EmbedderServiceAsyncStub":
        return rpc.EmbedderServiceStub(self.channel)

    async def holding(self, *versions: PublishedVersion) -> None:
        """Have it hold exactly these, ready."""
        self.residents.want([desired(version) for version in versions])
        for version in versions:
            await self.until(version.digest, State.READY)

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


def _settings(store_folder: Path, cache: Path, more: dict[str, object]) -> EmbedderSettings:
    store_folder.mkdir(exist_ok=True)
    given = {"listen": "127.0.0.1:0", "artifacts_url": store_folder.as_uri(), "cache_dir": cache, **more}
    return EmbedderSettings.model_validate(given)


@asynccontextmanager
async def embedding(store_folder: Path, cache: Path, **more: object) -> AsyncIterator[Embedding]:
    """Run an embedder for the time of the block."""
    settings = _settings(store_folder, cache, more)
    parts = assemble(settings, "here")
    host = Host(settings)
    host.serve(NAME, rpc.add_EmbedderServiceServicer_to_server, parts.servicer)
    host.background("residents", parts.residents.run)
    port = await host.start(settings.listen)
    await host.set_ready(True)
    try:
        address = f"127.0.0.1:{port}"
        async with grpc.aio.insecure_channel(address) as channel:
            yield Embedding(parts.residents, address, channel, settings, LiveGauges(parts.residents, parts.scheduler))
    finally:
        clean = await host.stop(5)
        await parts.residents.close()
    assert clean, "background work failed"
