"""The contracts, translated to and from the store and the peers."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Any

import grpc

from diapason.common.v1.version_pb2 import MODEL_KIND_ENCODER, MODEL_KIND_RERANKER, VersionRef
from diapason.embedder.v1.embedder_pb2 import VersionStatus
from diapason.trainer.v1 import (
    registry_pb2,
    registry_pb2_grpc,
    rollout_pb2,
    rollout_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)
from services.kit.errors import FailedPrecondition, InvalidArgument, Violation
from services.trainer import wire
from services.trainer.broker import ROLLOUT_TASK, RUN_TASK, Nudger
from services.trainer.domain import recipes
from services.trainer.domain.data import MIN_QUERIES, trainable_queries
from services.trainer.domain.gate import FEWEST_QUERIES, GatePolicy
from services.trainer.domain.model import (
    ROLLOUT_BEFORE_SWITCH,
    ROLLOUT_ENDED,
    RUN_ENDED,
    Kind,
    PublishedVersion,
    RolloutState,
    TrainingConfig,
)
from services.trainer.jobs import Jobs
from services.trainer.peers import Peers
from services.trainer.registry import Registry
from services.trainer.reporting.reports import Reports
from services.trainer.rollouts import roll_back
from services.trainer.tables import RolloutRow, RunRow

Context = grpc.aio.ServicerContext[object, object]

_WATCH_SECONDS = 0.25
# More rows for each query than this cost time and teach little.
_MOST_NEGATIVES = 16
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """Models, versions, and what replicas should hold."""

    def __init__(self, jobs: Jobs, registry: Registry, nudger: Nudger) -> None:
        self._jobs = jobs
        self._registry = registry
        self._nudger = nudger

    async def RegisterModel(
        self, request: registry_pb2.RegisterModelRequest, context: Context
    ) -> registry_pb2.RegisterModelResponse:
        """Queue an import."""
        wrong = []
        if not _NAME.fullmatch(request.name):
            rule = "use 1 to 63 lower-case letters, digits, '-' and '_', a letter or digit first"
            wrong.append(Violation("name", f"is {request.name!r}; {rule}"))
        if request.kind not in (MODEL_KIND_ENCODER, MODEL_KIND_RERANKER):
            wrong.append(Violation("kind", "is missing; say MODEL_KIND_ENCODER or MODEL_KIND_RERANKER"))
        if request.kind == MODEL_KIND_RERANKER and request.dimensions:
            given = list(request.dimensions)
            wrong.append(Violation("dimensions", f"is {given}; a reranker gives scores, not vectors: leave it empty"))
        if not request.source.strip():
            wrong.append(Violation("source", "is empty; give a folder, a hub id or package:NAME"))
        if wrong:
            raise InvalidArgument(*wrong)
        kind = wire.known_kind(request.kind)
        job = {"source": request.source, "kind": kind.value, "dimensions": list(request.dimensions)}
        run = await asyncio.to_thread(self._jobs.register, request.name, kind, request.source, job)
        await asyncio.to_thread(self._nudger.nudge, RUN_TASK, run.id)
        return registry_pb2.RegisterModelResponse(run_id=run.id)

    async def ListModels(
        self, request: registry_pb2.ListModelsRequest, context: Context
    ) -> registry_pb2.ListModelsResponse:
        """All models."""
        models = [
            registry_pb2.Model(
                name=row.name,
                kind=wire.kind(Kind(row.kind)),
                created_time=wire.moment(row.created_at),
                latest=wire.ref(newest) if newest else None,
            )
            for row, newest in await asyncio.to_thread(self._registry.models)
        ]
        return registry_pb2.ListModelsResponse(models=models)

    async def ListVersions(
        self, request: registry_pb2.ListVersionsRequest, context: Context
    ) -> registry_pb2.ListVersionsResponse:
        """A model's versions."""
        return registry_pb2.ListVersionsResponse(versions=await asyncio.to_thread(self._versions, request.model))

    async def GetVersion(
        self, request: registry_pb2.GetVersionRequest, context: Context
    ) -> registry_pb2.GetVersionResponse:
        """One version."""
        found = await asyncio.to_thread(_find_version, self._registry, request.version)
        versions = await asyncio.to_thread(self._versions, found.model)
        return registry_pb2.GetVersionResponse(version=next(v for v in versions if v.ref.digest == found.digest))

    async def Sync(
        self, request_iterator: AsyncIterator[registry_pb2.SyncRequest], context: Context
    ) -> AsyncIterator[registry_pb2.SyncResponse]:
        """Take each report and answer with the whole desired set."""
        async for report in request_iterator:
            if not report.replica_id:
                raise InvalidArgument(Violation("replica_id", "is empty; name the replica"))
            said = {status.version.digest: (int(status.state), status.reason) for status in report.versions}
            await asyncio.to_thread(self._registry.report, report.replica_id, said)
            desired = await asyncio.to_thread(self._registry.desired)
            yield registry_pb2.SyncResponse(
                desired=[
                    registry_pb2.DesiredVersion(version=wire.ref(item), artifact_path=item.path) for item in desired
                ]
            )

    def _versions(self, model: str) -> list[registry_pb2.Version]:
        replicas = self._registry.replicas()
        result = []
        for row, leases in self._registry.versions(model):
            version = wire.version(self._registry.version(row.digest), row.published_at, leases)
            for replica_id, versions in sorted(replicas.items()):
                if row.digest in versions:
                    state, reason = versions[row.digest]
                    status = VersionStatus(version=version.ref, reason=reason)
                    status.state = state  # type: ignore[assignment]
                    version.replicas.append(registry_pb2.ReplicaStatus(replica_id=replica_id, status=status))
            result.append(version)
        return result


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    """Runs."""

    def __init__(self, jobs: Jobs, registry: Registry, nudger: Nudger, peers: Peers, reports: Reports) -> None:
        self._jobs = jobs
        self._registry = registry
        self._nudger = nudger
        self._peers = peers
        self._reports = reports

    async def StartRun(self, request: training_pb2.StartRunRequest, context: Context) -> training_pb2.StartRunResponse:
        """Check that there is something to learn from, and queue."""
        config, policy = _config(request.config), _policy(request.gate)
        collection = await asyncio.to_thread(self._peers.collection, request.collection)
        current = await asyncio.to_thread(self._registry.version, collection.route.encoder.digest)
        wrong = [size for size in config.dimensions if not 0 < size < current.dimension]
        if wrong:
            raise InvalidArgument(
                Violation("config.dimensions", f"has {wrong}; give sizes below the full one, {current.dimension}")
            )
        exported = await asyncio.to_thread(self._peers.judgments, request.collection, "", request.config.policy)
        queries = trainable_queries(exported.judgments)
        if queries < MIN_QUERIES:
            raise FailedPrecondition(
                "TOO_FEW_JUDGMENTS",
                request.collection,
                f"there are {queries} queries with a liked document (of {len(exported.judgments)} judgments); "
                f"{MIN_QUERIES} are needed: collect more feedback",
            )
        job = {"config": asdict(config), "gate": asdict(policy), "dry_run": request.dry_run}
        run = await asyncio.to_thread(self._jobs.add_run, request.collection, current.model, current.digest, job)
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
        async for row in _changes(lambda: self._jobs.get(RunRow, request.id), ended):
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


class RolloutServicer(rollout_pb2_grpc.RolloutServiceServicer):
    """Rollouts."""

    def __init__(self, jobs: Jobs, registry: Registry, nudger: Nudger, peers: Peers) -> None:
        self._jobs = jobs
        self._registry = registry
        self._nudger = nudger
        self._peers = peers

    async def StartRollout(
        self, request: rollout_pb2.StartRolloutRequest, context: Context
    ) -> rollout_pb2.StartRolloutResponse:
        """Begin to roll a published version out."""
        version = await asyncio.to_thread(_find_version, self._registry, request.version)
        if version.kind is not Kind.ENCODER:
            raise FailedPrecondition(
                "NOT_AN_ENCODER",
                request.collection,
                f"version {version.number} of {version.model!r} is a {version.kind.value}; "
                "a collection is served by an encoder, roll one out",
            )
        collection = await asyncio.to_thread(self._peers.collection, request.collection)
        serving = collection.route.encoder
        if serving.digest == version.digest:
            raise FailedPrecondition(
                "ALREADY_SERVING",
                request.collection,
                f"{request.collection!r} is served by that version already",
            )
        row = await asyncio.to_thread(self._jobs.add_rollout, request.collection, serving.digest, version.digest)
        await asyncio.to_thread(self._nudger.nudge, ROLLOUT_TASK, row.id)
        return rollout_pb2.StartRolloutResponse(rollout=await self._rollout(row.id))

    async def GetRollout(
        self, request: rollout_pb2.GetRolloutRequest, context: Context
    ) -> rollout_pb2.GetRolloutResponse:
        """One rollout."""
        return rollout_pb2.GetRolloutResponse(rollout=await self._rollout(request.id))

    async def WatchRollout(
        self, request: rollout_pb2.WatchRolloutRequest, context: Context
    ) -> AsyncIterator[rollout_pb2.WatchRolloutResponse]:
        """Stream changes until the new version serves and was watched, or it ended without."""
        settled = {state.value for state in (*ROLLOUT_ENDED, RolloutState.RETIRING)}
        async for row in _changes(lambda: self._jobs.get(RolloutRow, request.id), settled):
            yield rollout_pb2.WatchRolloutResponse(rollout=await asyncio.to_thread(wire.rollout, row, self._registry))

    async def AbortRollout(
        self, request: rollout_pb2.AbortRolloutRequest, context: Context
    ) -> rollout_pb2.AbortRolloutResponse:
        """Ask it to stop before the switch."""
        row = await asyncio.to_thread(self._jobs.get, RolloutRow, request.id)
        if RolloutState(row.state) not in ROLLOUT_BEFORE_SWITCH:
            raise FailedPrecondition(
                "ALREADY_SWITCHED",
                row.id,
                f"rollout {row.id} is {row.state}; what has switched can be rolled back",
            )
        await asyncio.to_thread(self._jobs.request_stop, RolloutRow, request.id)
        return rollout_pb2.AbortRolloutResponse(rollout=await self._rollout(request.id))

    async def RollbackRollout(
        self, request: rollout_pb2.RollbackRolloutRequest, context: Context
    ) -> rollout_pb2.RollbackRolloutResponse:
        """Switch back to what served before."""
        row = await asyncio.to_thread(self._jobs.get, RolloutRow, request.id)
        if row.state not in (RolloutState.WATCHING.value, RolloutState.RETIRING.value):
            raise FailedPrecondition(
                "NOT_SWITCHED", row.id, f"rollout {row.id} is {row.state}; there is nothing to roll back"
            )
        await asyncio.to_thread(roll_back, self._peers, row)
        await asyncio.to_thread(self._jobs.roll_back, row.id, "rolled back by request")
        return rollout_pb2.RollbackRolloutResponse(rollout=await self._rollout(request.id))

    async def _rollout(self, rollout_id: str) -> rollout_pb2.Rollout:
        row = await asyncio.to_thread(self._jobs.get, RolloutRow, rollout_id)
        return await asyncio.to_thread(wire.rollout, row, self._registry)


async def _changes(read: Callable[[], Any], until: set[str]) -> AsyncIterator[Any]:
    """The row now, and after each change until its state is one of ``until``."""
    revision = -1
    while True:
        row = await asyncio.to_thread(read)
        if row.revision != revision:
            revision = row.revision
            yield row
        if row.state in until:
            return
        await asyncio.sleep(_WATCH_SECONDS)


def _find_version(registry: Registry, asked: VersionRef) -> PublishedVersion:
    if not asked.digest and not (asked.model and asked.number):
        raise InvalidArgument(Violation("version", "is missing; give a digest, or a model and a number"))
    return registry.version(asked.digest, asked.model, asked.number)


def _config(given: training_pb2.TrainingConfig) -> TrainingConfig:
    default = TrainingConfig()
    config = TrainingConfig(
        epochs=given.epochs or default.epochs,
        batch_size=given.batch_size or default.batch_size,
        learning_rate=given.learning_rate or default.learning_rate,
        dimensions=tuple(sorted(given.dimensions, reverse=True)),
        held_out=given.held_out or default.held_out,
        seed=given.seed or default.seed,
        policy=given.policy,
        recipe=given.recipe or default.recipe,
        negatives=given.negatives or default.negatives,
    )
    wrong = []
    if config.recipe not in recipes.NAMES:
        wrong.append(Violation("config.recipe", f"is {config.recipe!r}; give one of {', '.join(recipes.NAMES)}"))
    if config.negatives > _MOST_NEGATIVES:
        wrong.append(Violation("config.negatives", f"is {config.negatives}; the most is {_MOST_NEGATIVES}"))
    if config.epochs > 100:
        wrong.append(Violation("config.epochs", f"is {config.epochs}; the most is 100"))
    if not 2 <= config.batch_size <= 1024:
        wrong.append(Violation("config.batch_size", f"is {config.batch_size}; give 2 to 1024"))
    if not 0 < config.learning_rate <= 0.1:
        wrong.append(Violation("config.learning_rate", f"is {config.learning_rate}; give more than 0, at most 0.1"))
    if not 0 < config.held_out < 1:
        wrong.append(Violation("config.held_out", f"is {config.held_out}; give a share between 0 and 1"))
    if wrong:
        raise InvalidArgument(*wrong)
    return config


def _policy(given: training_pb2.GatePolicy) -> GatePolicy:
    policy = GatePolicy(given.min_queries or GatePolicy.min_queries, given.min_difference)
    wrong = []
    if policy.min_queries < FEWEST_QUERIES:
        least = f"is {policy.min_queries}; fewer than {FEWEST_QUERIES} say nothing, give at least that"
        wrong.append(Violation("gate.min_queries", least))
    if not 0 <= policy.min_difference < 1:
        wrong.append(Violation("gate.min_difference", f"is {policy.min_difference}; give 0 or more, less than 1"))
    if wrong:
        raise InvalidArgument(*wrong)
    return policy
