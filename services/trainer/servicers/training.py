"""Runs and their reports."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict

from diapason.trainer.v1 import (
    training_pb2,
    training_pb2_grpc,
)
from services.kit.errors import FailedPrecondition, InvalidArgument, Violation
from services.trainer import wire
from services.trainer.broker import RUN_TASK, Nudger
from services.trainer.brought import want
from services.trainer.datasets import Datasets
from services.trainer.domain.data import MIN_QUERIES, Judgment, trainable_queries
from services.trainer.domain.model import RUN_ENDED, Kind
from services.trainer.jobs import Jobs
from services.trainer.peers import Peers
from services.trainer.registry import Registry
from services.trainer.reporting.reports import Reports
from services.trainer.servicers.common import Context, changes, find_reranker
from services.trainer.servicers.configs import config, gate_policy
from services.trainer.tables import RunRow


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    """Runs."""

    def __init__(
        self, jobs: Jobs, registry: Registry, nudger: Nudger, peers: Peers, reports: Reports, datasets: Datasets
    ) -> None:
        self._datasets = datasets
        self._jobs = jobs
        self._registry = registry
        self._nudger = nudger
        self._peers = peers
        self._reports = reports

    async def StartRun(self, request: training_pb2.StartRunRequest, context: Context) -> training_pb2.StartRunResponse:
        """Check that there is something to learn from, and queue."""
        kind = Kind.RERANKER if request.reranker else Kind.ENCODER
        chosen, policy = config(request.config, kind), gate_policy(request.gate)
        collection = await asyncio.to_thread(self._peers.collection, request.collection)
        current = await asyncio.to_thread(self._registry.version, collection.route.encoder.digest)
        if request.reranker:
            await asyncio.to_thread(find_reranker, self._registry, request.reranker)
        wrong = [size for size in chosen.dimensions if not 0 < size < current.dimension]
        if wrong:
            raise InvalidArgument(
                Violation("config.dimensions", f"has {wrong}; give sizes below the full one, {current.dimension}")
            )
        wanted, queries = await asyncio.to_thread(
            want, self._datasets, request.datasets, request.without_feedback, policy.guard, chosen.recipe, kind
        )
        judgments: Sequence[Judgment] = ()
        if not wanted.without_feedback:
            exported = await asyncio.to_thread(self._peers.judgments, request.collection, "", request.config.policy)
            judgments = exported.judgments
            queries += trainable_queries(judgments)
        if queries < MIN_QUERIES:
            raise FailedPrecondition(
                "TOO_FEW_JUDGMENTS",
                request.collection,
                f"there are {queries} queries with a liked document (of {len(judgments)} judgments); "
                f"{MIN_QUERIES} are needed: collect more feedback, or bring a dataset",
            )
        job = {"config": asdict(chosen), "gate": asdict(policy), "dry_run": request.dry_run, "kind": kind.value}
        job |= wanted.stored()
        model, digest = current.model, current.digest
        if request.reranker:
            # Beside what reranks now, which may be nothing, the run needs what brings the documents.
            model, digest, job["encoder"] = request.reranker, collection.route.reranker.digest, current.digest
            if digest:
                await asyncio.to_thread(self._registry.version, digest)
        run = await asyncio.to_thread(self._jobs.add_run, request.collection, model, digest, job)
        if not await asyncio.to_thread(self._nudger.nudge, RUN_TASK, run.id):
            waits = "queued; the message broker does not answer, training begins by itself once it does"
            await asyncio.to_thread(self._jobs.note, RunRow, run.id, waits)
        return training_pb2.StartRunResponse(run=await self._run(run.id))

    async def GetRun(self, request: training_pb2.GetRunRequest, context: Context) -> training_pb2.GetRunResponse:
        """One run."""
        return training_pb2.GetRunResponse(run=await self._run(request.id))

    async def ListRuns(self, request: training_pb2.ListRunsRequest, context: Context) -> training_pb2.ListRunsResponse:
        """Newest first."""
        if request.limit > 200:
            raise InvalidArgument(Violation("limit", f"is {request.limit}; the most is 200"))
        rows = await asyncio.to_thread(self._jobs.runs, request.limit or 20)
        return training_pb2.ListRunsResponse(
            runs=[await asyncio.to_thread(wire.run, row, self._registry) for row in rows]
        )

    async def CancelRun(
        self, request: training_pb2.CancelRunRequest, context: Context
    ) -> training_pb2.CancelRunResponse:
        """Ask it to stop."""
        await asyncio.to_thread(self._jobs.request_stop, RunRow, request.id)
        return training_pb2.CancelRunResponse(run=await self._run(request.id))

    async def WatchRun(
        self, request: training_pb2.WatchRunRequest, context: Context
    ) -> AsyncIterator[training_pb2.WatchRunResponse]:
        """Stream changes."""
        ended = {state.value for state in RUN_ENDED}
        async for row in changes(lambda: self._jobs.get(RunRow, request.id), ended):
            yield training_pb2.WatchRunResponse(run=await asyncio.to_thread(wire.run, row, self._registry))

    async def GetStatus(
        self, request: training_pb2.GetStatusRequest, context: Context
    ) -> training_pb2.GetStatusResponse:
        """Broker and workers."""
        reason = await asyncio.to_thread(self._nudger.reachable)
        workers = await asyncio.to_thread(self._registry.workers)
        return training_pb2.GetStatusResponse(broker_reachable=not reason, broker_reason=reason, workers=workers)

    async def GetReport(
        self, request: training_pb2.GetReportRequest, context: Context
    ) -> training_pb2.GetReportResponse:
        """Make the report, in a thread."""
        makers = {
            training_pb2.REPORT_FORMAT_UNSPECIFIED: self._reports.page,
            training_pb2.REPORT_FORMAT_HTML: self._reports.page,
            training_pb2.REPORT_FORMAT_JSON: self._reports.data,
        }
        if request.format not in makers:
            raise InvalidArgument(Violation("format", f"is {request.format}; give HTML or JSON"))
        made = await asyncio.to_thread(makers[request.format], request.id)
        return training_pb2.GetReportResponse(content=made.content, media_type=made.media_type, sentence=made.sentence)

    async def _run(self, run_id: str) -> training_pb2.Run:
        row = await asyncio.to_thread(self._jobs.get, RunRow, run_id)
        return await asyncio.to_thread(wire.run, row, self._registry)
