"""Composition root of the trainer's API: `python -m services.trainer`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from obstore.store import from_url

from diapason.trainer.v1 import (
    dataset_pb2,
    dataset_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    rollout_pb2,
    rollout_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)
from services.kit.channels import open_blocking_channel
from services.kit.server import Host, run
from services.kit.sql import Database
from services.trainer.broker import Nudger
from services.trainer.datasets import Datasets
from services.trainer.hub.pushing import Pusher
from services.trainer.jobs import Jobs
from services.trainer.peers import Peers
from services.trainer.registry import Registry
from services.trainer.reporting.reports import Reports
from services.trainer.servicers.datasets import DatasetServicer
from services.trainer.servicers.registry import RegistryServicer
from services.trainer.servicers.rollouts import RolloutServicer
from services.trainer.servicers.training import TrainingServicer
from services.trainer.settings import TrainerSettings
from services.trainer.upkeep import keep_leases, sweep

REGISTRY = registry_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name
TRAINING = training_pb2.DESCRIPTOR.services_by_name["TrainingService"].full_name
DATASETS = dataset_pb2.DESCRIPTOR.services_by_name["DatasetService"].full_name
ROLLOUTS = rollout_pb2.DESCRIPTOR.services_by_name["RolloutService"].full_name
MIGRATIONS = Path(__file__).parent / "migrations"


@asynccontextmanager
async def build(settings: TrainerSettings, host: Host) -> AsyncIterator[None]:
    """Wire the API together."""
    database = Database(settings.database_url)
    await asyncio.to_thread(database.migrate, MIGRATIONS)
    jobs, registry, nudger = Jobs(database), Registry(database), Nudger(settings.broker_url)
    with (
        open_blocking_channel(settings.search_address) as search,
        open_blocking_channel(settings.feedback_address) as feedback,
    ):
        peers = Peers(search, feedback)
        objects = from_url(settings.artifacts_url)
        pusher = Pusher(objects, settings.work_dir.resolve(), settings.push_timeout_seconds)
        models = RegistryServicer(jobs, registry, nudger, pusher)
        host.serve(REGISTRY, registry_pb2_grpc.add_RegistryServiceServicer_to_server, models)
        objects = from_url(settings.artifacts_url)
        datasets, reports = Datasets(database, objects), Reports(jobs, registry, objects)
        brought = DatasetServicer(
            datasets, settings.work_dir / "uploads", settings.dataset_rows, settings.dataset_bytes
        )
        host.serve(DATASETS, dataset_pb2_grpc.add_DatasetServiceServicer_to_server, brought)
        runs = TrainingServicer(jobs, registry, nudger, peers, reports, datasets)
        host.serve(TRAINING, training_pb2_grpc.add_TrainingServiceServicer_to_server, runs)
        rollouts = RolloutServicer(jobs, registry, nudger, peers)
        host.serve(ROLLOUTS, rollout_pb2_grpc.add_RolloutServiceServicer_to_server, rollouts)
        host.background("sweeper", lambda: sweep(jobs, nudger))
        host.background("leases", lambda: keep_leases(jobs, registry, peers))
        host.background("readiness", lambda: host.set_ready(True))
        yield
    nudger.close()
    database.close()


if __name__ == "__main__":
    sys.exit(run("trainer", TrainerSettings, build))
