"""Composition root: `python -m services.embedder`."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from obstore.store import from_url

from diapason.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from services.embedder.residents import Residents
from services.embedder.servicer import EmbedderServicer
from services.embedder.settings import EmbedderSettings
from services.embedder.sync import RegistrySync
from services.kit.channels import open_channel
from services.kit.server import Host, run

NAME = embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"].full_name


@asynccontextmanager
async def build(settings: EmbedderSettings, host: Host) -> AsyncIterator[None]:
    """Wire the embedder together."""
    replica_id = settings.replica_id or f"{socket.gethostname()}-{os.getpid()}"
    residents = Residents(
        from_url(settings.artifacts_url),
        settings.cache_dir,
        settings.inference_threads,
        settings.max_queued_texts,
    )
    async with open_channel(settings.registry_address) as channel:
        sync = RegistrySync(residents, channel, replica_id)
        servicer = EmbedderServicer(residents, settings, replica_id)
        host.serve(NAME, embedder_pb2_grpc.add_EmbedderServiceServicer_to_server, servicer)
        host.background("residents", residents.run)
        host.background("registry sync", sync.run)
        host.background("readiness", lambda: _watch_readiness(residents, host))
        yield
    await residents.close()


async def _watch_readiness(residents: Residents, host: Host) -> None:
    """Ready once what the registry wanted first is warm; a later load never makes it unready."""
    changed = asyncio.Event()
    residents.on_change(changed.set)
    while not residents.settled():
        changed.clear()
        await changed.wait()
    await host.set_ready(True)


if __name__ == "__main__":
    sys.exit(run("embedder", EmbedderSettings, build))
