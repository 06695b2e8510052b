"""Composition root: `python -m services.embedder`."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from obstore.store import from_url

from diapason.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from services.embedder import metrics
from services.embedder.domain.batching import Bounds
from services.embedder.embedding import Embedding
from services.embedder.fetching import VersionCache
from services.embedder.metrics import BatchMetrics, Labels, LiveGauges
from services.embedder.residents import Machine, Resident, Residents
from services.embedder.scheduler import Scheduler
from services.embedder.servicer import EmbedderServicer
from services.embedder.settings import EmbedderSettings
from services.embedder.sync import RegistrySync
from services.embedder.worker.runtime import Description
from services.kit.channels import open_channel
from services.kit.server import Host, run

NAME = embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"].full_name


@dataclass(frozen=True)
class Embedder:
    """The parts of an embedder, wired together."""

    residents: Residents
    scheduler: Scheduler
    servicer: EmbedderServicer


def assemble(settings: EmbedderSettings, replica_id: str) -> Embedder:
    """Wire everything but the conversation with the registry. Needs a running event loop."""
    description = describe_runtime(settings.runtime)
    observer = BatchMetrics()
    scheduler = Scheduler(settings.slots, Bounds(settings.max_queued_texts, settings.max_queued_tokens), observer)
    machine = Machine(
        runtime=description.runtime,
        slots=settings.slots,
        threads_per_batch=settings.threads_per_batch,
        threads=settings.inference_threads,
        preserving=settings.preserve,
        attempts=settings.load_attempts,
    )
    cache = VersionCache(settings.cache_dir, settings.cache_max_bytes, description.runtime)
    residents = Residents(from_url(settings.artifacts_url), settings.cache_dir, cache, machine, scheduler)

    def note_stage(resident: Resident, stage: str, seconds: float) -> None:
        labels = Labels.of(resident)
        if stage == "gone":
            observer.forget(resident.desired.digest)
            metrics.forget(labels)
            return
        observer.know(resident.desired.digest, labels)
        if stage == "lost":
            metrics.lost(labels)
        else:
            metrics.spent(labels, stage, seconds)

    residents.on_stage(note_stage)
    embedding = Embedding(scheduler, settings.query_cache_entries, settings.max_queued_tokens)
    servicer = EmbedderServicer(residents, embedding, settings, description, replica_id)
    return Embedder(residents, scheduler, servicer)


def describe_runtime(wanted: str) -> Description:
    """Ask an inference process what it would compute with: this process loads neither OpenVINO nor torch."""
    command = [sys.executable, "-m", "services.embedder.worker", "--describe", wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        raise SystemExit(f"embedder: the runtime {wanted!r} can't be used; is its extra installed?")
    return Description(**json.loads(done.stdout))


@asynccontextmanager
async def build(settings: EmbedderSettings, host: Host) -> AsyncIterator[None]:
    """The embedder, with its registry."""
    replica_id = settings.replica_id or f"{socket.gethostname()}-{os.getpid()}"
    embedder = assemble(settings, replica_id)
    residents = embedder.residents
    LiveGauges(residents, embedder.scheduler).register()
    async with open_channel(settings.registry_address) as channel:
        sync = RegistrySync(residents, channel, replica_id)
        host.serve(NAME, embedder_pb2_grpc.add_EmbedderServiceServicer_to_server, embedder.servicer)
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
