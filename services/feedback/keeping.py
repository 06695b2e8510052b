"""Retention: what is older than it is kept for is deleted, a little at a time."""

import asyncio
import time
from collections.abc import Callable

import structlog

from services.feedback import metrics
from services.feedback.adapters.records import Records
from services.feedback.domain.rules import DAY_MS

log = structlog.get_logger()

_SECONDS = 600.0
# Rows of one transaction: writers wait for no more than that.
_MOST = 1_000


class Keeping:
    """Days that feedback and impressions are kept; 0 for ever."""

    def __init__(self, records: Records, feedback_days: int, impression_days: int) -> None:
        self._kinds: list[tuple[str, int, Callable[[int, int], int]]] = [
            ("feedback", feedback_days, records.expire_feedback),
            ("impressions", impression_days, records.expire_impressions),
        ]

    async def run(self) -> None:
        """Delete for ever; what fails, be it for a database that restarts, is tried again with the next pass."""
        while any(days for _, days, _ in self._kinds):
            try:
                await self.expire(int(time.time() * 1000))
            except Exception:
                log.exception("what is too old could not be deleted, trying again")
            await asyncio.sleep(_SECONDS)

    async def expire(self, now: int) -> dict[str, int]:
        """Delete all that is too old at ``now`` (milliseconds since 1970); returns how many rows of each kind."""
        deleted = {}
        for kind, days, delete in self._kinds:
            count = 0
            while days and (some := await asyncio.to_thread(delete, now - days * DAY_MS, _MOST)):
                count += some
                metrics.EXPIRED.labels(kind).inc(some)
            deleted[kind] = count
            if count:
                log.info("deleted for their age", kind=kind, rows=count, days=days)
        return deleted
