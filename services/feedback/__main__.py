"""Composition root: `python -m services.feedback`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from diapason.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from services.feedback.servicer import FeedbackServicer
from services.feedback.settings import FeedbackSettings
from services.feedback.store import FeedbackStore
from services.kit.admission import Admission
from services.kit.server import Host, run
from services.kit.sql import Database

NAME = feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"].full_name
MIGRATIONS = Path(__file__).parent / "migrations"


@asynccontextmanager
async def build(settings: FeedbackSettings, host: Host) -> AsyncIterator[None]:
    """Wire feedback together."""
    database = Database(settings.database_url)
    await asyncio.to_thread(database.migrate, MIGRATIONS)
    servicer = FeedbackServicer(FeedbackStore(database), Admission(settings.max_requests))
    host.serve(NAME, feedback_pb2_grpc.add_FeedbackServiceServicer_to_server, servicer)
    host.background("readiness", lambda: host.set_ready(True))
    yield
    database.close()


if __name__ == "__main__":
    sys.exit(run("feedback", FeedbackSettings, build))
