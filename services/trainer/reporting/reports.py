"""Making the report of a run on demand.

What draws and fills the page is imported only then: most of the API's life it is not needed.
"""

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from obstore.store import ObjectStore

from services.kit.errors import FailedPrecondition, NotFound, Overloaded
from services.trainer.domain.model import RUN_ENDED
from services.trainer.jobs import Jobs
from services.trainer.registry import Registry
from services.trainer.reporting import keeping
from services.trainer.reporting.report import Facts, Report, build
from services.trainer.tables import RunRow, aware

# Reports that may be in the making or wait for it; each holds a thread.
_MOST_AT_ONCE = 4


@dataclass(frozen=True)
class Rendered:
    """A report's bytes, what they are, and the verdict in one sentence."""

    content: bytes
    media_type: str
    sentence: str


class Reports:
    """Reports of ended runs. Methods block: call them from a thread."""

    def __init__(self, jobs: Jobs, registry: Registry, objects: ObjectStore) -> None:
        self._jobs = jobs
        self._registry = registry
        self._objects = objects
        self._places = threading.BoundedSemaphore(_MOST_AT_ONCE)

    def page(self, run_id: str) -> Rendered:
        """As HTML. Raises ``NotFound``, ``FailedPrecondition`` before the run's end, ``Overloaded``."""
        report = self._report(run_id)
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"{_MOST_AT_ONCE} reports are being made; try again in a moment", retry_after=2.0)
        try:
            from services.trainer.reporting.page import render

            return Rendered(render(report), "text/html; charset=utf-8", report.sentence)
        finally:
            self._places.release()

    def data(self, run_id: str) -> Rendered:
        """As JSON. Raises ``NotFound``, ``FailedPrecondition`` before the run's end."""
        report = self._report(run_id)
        return Rendered(report.as_json(), "application/json", report.sentence)

    def _report(self, run_id: str) -> Report:
        row = self._jobs.get(RunRow, run_id)
        if row.state not in {state.value for state in RUN_ENDED}:
            raise FailedPrecondition(
                "NOT_ENDED", row.id, f"run {row.id} is {row.state}; its report is made once it has ended"
            )
        try:
            details, notes = keeping.fetch(self._objects, row.id), []
        except keeping.Unreadable as error:
            details, notes = {}, [f"This report knows of the run only what its row says: {error}."]
        return build(self._facts(row), _known(row), details, notes)

    def _facts(self, row: RunRow) -> Facts:
        return Facts(
            id=row.id,
            kind=row.kind,
            state=row.state,
            message=row.message,
            collection=row.collection,
            model=row.model,
            current=self._named(row.current_digest),
            published=self._named(row.published_digest),
            dry_run=bool(row.request.get("dry_run")),
            created=_moment(row.created_at),
            started=_moment(row.started_at),
            ended=_moment(row.ended_at),
        )

    def _named(self, digest: str) -> str:
        if not digest:
            return ""
        try:
            version = self._registry.version(digest)
        except NotFound:
            return digest
        return f"{version.model} version {version.number} ({digest[:12]})"


def _known(row: RunRow) -> dict[str, Any]:
    """What the row itself knows, in the form of details; nothing for what it does not."""
    config = {**row.request.get("config", {}), **{f"gate {k}": v for k, v in row.request.get("gate", {}).items()}}
    training = [{"step": step, "epoch": epoch, "loss": loss} for step, epoch, loss in row.losses]
    known = {"data": row.data, "config": config, "training": training, "gate": row.gate}
    return {part: value for part, value in known.items() if value}


def _moment(at: datetime | None) -> str:
    return aware(at).isoformat(sep=" ", timespec="seconds") if at else ""
