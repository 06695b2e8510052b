"""The client's calls of the trainer: runs, models, rollouts."""

from collections.abc import Iterator, Sequence

from diapason.clients.calls import errors
from diapason.common.v1.version_pb2 import MODEL_KIND_ENCODER, MODEL_KIND_RERANKER, VersionRef
from diapason.trainer.v1 import (
    registry_pb2,
    registry_pb2_grpc,
    rollout_pb2,
    rollout_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)


class TrainingCalls:
    """What `diapason.client.Client` can have trained, registered and rolled out."""

    _timeout: float
    _training: training_pb2_grpc.TrainingServiceStub
    _registry: registry_pb2_grpc.RegistryServiceStub
    _rollouts: rollout_pb2_grpc.RolloutServiceStub

    # Runs

    def train(
        self,
        collection: str,
        config: training_pb2.TrainingConfig | None = None,
        gate: training_pb2.GatePolicy | None = None,
        dry_run: bool = False,
        datasets: Sequence[str] = (),
        without_feedback: bool = False,
        reranker: str = "",
    ) -> training_pb2.Run:
        """Queue a run of the collection's encoder, or of a ``reranker``; what passes the gate is rolled out.

        It trains on feedback, on ``datasets``, or on both.
        """
        request = training_pb2.StartRunRequest(
            collection=collection,
            config=config,
            gate=gate,
            dry_run=dry_run,
            datasets=datasets,
            without_feedback=without_feedback,
            reranker=reranker,
        )
        with errors():
            return self._training.StartRun(request, timeout=self._timeout).run

    def run(self, run_id: str) -> training_pb2.Run:
        """One run."""
        with errors():
            return self._training.GetRun(training_pb2.GetRunRequest(id=run_id), timeout=self._timeout).run

    def runs(self, limit: int = 0) -> Sequence[training_pb2.Run]:
        """Runs, newest first."""
        with errors():
            return self._training.ListRuns(training_pb2.ListRunsRequest(limit=limit), timeout=self._timeout).runs

    def cancel_run(self, run_id: str) -> training_pb2.Run:
        """Ask a run to stop."""
        with errors():
            return self._training.CancelRun(training_pb2.CancelRunRequest(id=run_id), timeout=self._timeout).run

    def watch_run(self, run_id: str) -> Iterator[training_pb2.Run]:
        """The run now and after each change, until it ends."""
        with errors():
            for answer in self._training.WatchRun(training_pb2.WatchRunRequest(id=run_id)):
                yield answer.run

    def trainer_status(self) -> training_pb2.GetStatusResponse:
        """Whether training would begin: broker and workers."""
        with errors():
            return self._training.GetStatus(training_pb2.GetStatusRequest(), timeout=self._timeout)

    def report(self, run_id: str, json: bool = False) -> training_pb2.GetReportResponse:
        """The report of an ended run: one HTML page, or with ``json`` the same for programs."""
        format_ = training_pb2.REPORT_FORMAT_JSON if json else training_pb2.REPORT_FORMAT_HTML
        request = training_pb2.GetReportRequest(id=run_id, format=format_)
        with errors():
            return self._training.GetReport(request, timeout=self._timeout)

    # Models

    def register_model(self, name: str, source: str, dimensions: Sequence[int] = (), reranker: bool = False) -> str:
        """Import a base model; returns the id of the run that does it. A reranker has no ``dimensions``."""
        kind = MODEL_KIND_RERANKER if reranker else MODEL_KIND_ENCODER
        request = registry_pb2.RegisterModelRequest(name=name, kind=kind, source=source, dimensions=dimensions)
        with errors():
            return self._registry.RegisterModel(request, timeout=self._timeout).run_id

    def models(self) -> Sequence[registry_pb2.Model]:
        """All models."""
        with errors():
            return self._registry.ListModels(registry_pb2.ListModelsRequest(), timeout=self._timeout).models

    def versions(self, model: str) -> Sequence[registry_pb2.Version]:
        """A model's versions, newest first."""
        request = registry_pb2.ListVersionsRequest(model=model)
        with errors():
            return self._registry.ListVersions(request, timeout=self._timeout).versions

    def push_version(
        self, version: VersionRef, repo: str, private: bool = False
    ) -> Iterator[registry_pb2.PushVersionResponse]:
        """Push a version's weights and a card to a model hub; what is being done, and at last where it lies.

        ``version`` by digest or by model and number, ``repo`` as ``owner/name``. A repository that is made for it is
        private if ``private``. Hub and token are those of the trainer. Whoever stops listening stops the push.
        """
        request = registry_pb2.PushVersionRequest(version=version, repo=repo, private=private)
        call = self._registry.PushVersion(request)
        try:
            with errors():
                yield from call
        finally:
            call.cancel()

    def start_rollout(self, collection: str, version: VersionRef) -> rollout_pb2.Rollout:
        """Roll a published version out."""
        request = rollout_pb2.StartRolloutRequest(collection=collection, version=version)
        with errors():
            return self._rollouts.StartRollout(request, timeout=self._timeout).rollout

    def rollout(self, rollout_id: str) -> rollout_pb2.Rollout:
        """One rollout."""
        request = rollout_pb2.GetRolloutRequest(id=rollout_id)
        with errors():
            return self._rollouts.GetRollout(request, timeout=self._timeout).rollout

    def watch_rollout(self, rollout_id: str) -> Iterator[rollout_pb2.Rollout]:
        """The rollout now and after each change, until the new version serves or it ended without."""
        with errors():
            for answer in self._rollouts.WatchRollout(rollout_pb2.WatchRolloutRequest(id=rollout_id)):
                yield answer.rollout

    def roll_back(self, rollout_id: str) -> rollout_pb2.Rollout:
        """Switch back to what served before a rollout."""
        request = rollout_pb2.RollbackRolloutRequest(id=rollout_id)
        with errors():
            return self._rollouts.RollbackRollout(request, timeout=self._timeout).rollout
