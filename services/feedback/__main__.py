"""Composition root: `python -m services.feedback`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from diapason.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from services.feedback.adapters.reading import FeedbackReading
from services.feedback.adapters.records import Records
from services.feedback.adapters.store import FeedbackStore
from services.feedback.domain.limits import Limits
from services.feedback.exporting import Exporting
from services.feedback.keeping import Keeping
from services.feedback.servicer import FeedbackServicer
from services.feedback.settings import FeedbackSettings
from services.feedback.submitting import Submitting
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
    store, reading, records = FeedbackStore(database), FeedbackReading(database), Records(database)
    submitting = Submitting(store, Limits(settings.actor_events_per_minute), settings.feedback_retention_days)
    servicer = FeedbackServicer(
        submitting, Exporting(reading, records), store, reading, records, Admission(settings.max_requests)
    )
    keeping = Keeping(records, settings.feedback_retention_days, settings.impression_retention_days)
    host.serve(NAME, feedback_pb2_grpc.add_FeedbackServiceServicer_to_server, servicer)
    host.background("retention", keeping.run)
    host.background("readiness", lambda: host.set_ready(True))
    yield
    database.close()


if __name__ == "__main__":
    sys.exit(run("feedback", FeedbackSettings, build))
