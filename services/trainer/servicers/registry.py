"""Models, versions, and what replicas should hold."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

from diapason.common.v1.version_pb2 import MODEL_KIND_ENCODER, MODEL_KIND_RERANKER
from diapason.embedder.v1.embedder_pb2 import VersionStatus
from diapason.trainer.v1 import (
    registry_pb2,
    registry_pb2_grpc,
)
from services.kit.errors import InvalidArgument, NotFound, Violation
from services.trainer import wire
from services.trainer.broker import RUN_TASK, Nudger
from services.trainer.domain.model import Kind, PublishedVersion
from services.trainer.hub.pushing import Push, Pusher, Step
from services.trainer.jobs import Jobs
from services.trainer.registry import Registry
from services.trainer.servicers.common import Context, find_version
from services.trainer.tables import RunRow

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
# As huggingface_hub's `validate_repo_id` has it; here an owner must be named.
_REPO = re.compile(r"(?!.*(--|\.\.))(?!.*\.git$)[A-Za-z0-9_][\w.-]*(?<![.-])/[A-Za-z0-9_][\w.-]*(?<![.-])", re.ASCII)
_REPO_CHARACTERS = 96


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """Models, versions, and what replicas should hold."""

    def __init__(self, jobs: Jobs, registry: Registry, nudger: Nudger, pusher: Pusher) -> None:
        self._jobs = jobs
        self._registry = registry
        self._nudger = nudger
        self._pusher = pusher

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
        found = await asyncio.to_thread(find_version, self._registry, request.version)
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

    async def PushVersion(
        self, request: registry_pb2.PushVersionRequest, context: Context
    ) -> AsyncIterator[registry_pb2.PushVersionResponse]:
        """Push, saying what it is at. The token is the trainer's own; nothing in the request could hold one."""
        if not _REPO.fullmatch(request.repo) or len(request.repo) > _REPO_CHARACTERS:
            rule = f"use owner/name of letters, digits, '-', '_' and '.', at most {_REPO_CHARACTERS} characters"
            raise InvalidArgument(Violation("repo", f"is {request.repo[:200]!r}; {rule}"))
        version = await asyncio.to_thread(find_version, self._registry, request.version)
        gate = await asyncio.to_thread(self._gate_of, version)
        async for step in self._pusher.push(Push(version, request.repo, request.private, gate)):
            yield _step(step)

    def _gate_of(self, version: PublishedVersion) -> dict[str, Any]:
        """What its run's gate measured; empty for a version that no gate let pass, as an imported one."""
        try:
            return self._jobs.get(RunRow, version.run_id).gate or {}
        except NotFound:
            return {}

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


def _step(step: Step) -> registry_pb2.PushVersionResponse:
    stage = registry_pb2.PUSH_STAGE_FETCHING
    if step.size_bytes:
        stage = registry_pb2.PUSH_STAGE_DONE if step.commit else registry_pb2.PUSH_STAGE_UPLOADING
    return registry_pb2.PushVersionResponse(stage=stage, size_bytes=step.size_bytes, url=step.url, commit=step.commit)
