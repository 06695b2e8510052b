"""The trainer's things in the contract's form."""

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from diapason.common.v1.version_pb2 import ModelKind, VersionRef
from diapason.trainer.v1 import registry_pb2 as registry
from diapason.trainer.v1 import rollout_pb2 as rollouts
from diapason.trainer.v1 import training_pb2 as training
from services.trainer.domain.model import Kind, PublishedVersion
from services.trainer.registry import Registry
from services.trainer.tables import RolloutRow, RunRow


def moment(at: datetime) -> Timestamp:
    """UTC, also where the database forgot to say so."""
    stamp = Timestamp()
    stamp.FromDatetime(at if at.tzinfo else at.replace(tzinfo=UTC))
    return stamp


def ref(version: PublishedVersion) -> VersionRef:
    """All three parts of a version's name."""
    return VersionRef(model=version.model, number=version.number, digest=version.digest)


def kind(known: Kind) -> ModelKind.ValueType:
    """The contract's name for a kind."""
    return ModelKind.Value(f"MODEL_KIND_{known.name}")


def known_kind(given: ModelKind.ValueType) -> Kind:
    """The kind that the contract names. Raises ``KeyError`` if it names none."""
    return Kind[ModelKind.Name(given).removeprefix("MODEL_KIND_")]


def version(published: PublishedVersion, at: datetime, leases: list[str]) -> registry.Version:
    """A version without what replicas say of it."""
    return registry.Version(
        ref=ref(published),
        kind=kind(published.kind),
        artifact_path=published.path,
        parent_digest=published.parent_digest,
        run_id=published.run_id,
        published_time=moment(at),
        dimension=published.dimension,
        dimensions=published.dimensions,
        leases=leases,
    )


def run_of(row: RunRow) -> Kind:
    """The kind of a run's model. Rows of before there were rerankers do not say."""
    return Kind(row.request.get("kind", Kind.ENCODER.value))


def run(row: RunRow, registry: Registry) -> training.Run:
    """A run with everything known of it. Reads versions: call it from a thread."""
    message = training.Run(
        id=row.id,
        kind=training.RunKind.Value(f"RUN_KIND_{row.kind.upper()}"),
        state=training.RunState.Value(f"RUN_STATE_{row.state.upper()}"),
        stage=training.RunStage.Value(f"RUN_STAGE_{row.stage.upper()}"),
        progress=row.progress,
        seconds_left=row.seconds_left,
        message=row.message,
        collection=row.collection,
        model=row.model,
        model_kind=kind(run_of(row)),
        rollout_id=row.rollout_id,
        created_time=moment(row.created_at),
        data=training.DataSummary(**row.data),
        losses=[training.LossPoint(step=step, epoch=epoch, loss=loss) for step, epoch, loss in row.losses],
    )
    if row.current_digest:
        message.current.CopyFrom(ref(registry.version(row.current_digest)))
    if row.published_digest:
        message.published.CopyFrom(ref(registry.version(row.published_digest)))
    if row.started_at:
        message.started_time.CopyFrom(moment(row.started_at))
    if row.ended_at:
        message.ended_time.CopyFrom(moment(row.ended_at))
    if row.gate:
        message.gate.CopyFrom(_gate(row.gate))
    return message


def _gate(stored: dict[str, Any]) -> training.Gate:
    return training.Gate(
        verdict=training.Verdict.Value(f"VERDICT_{stored['verdict'].upper()}"),
        reason=stored["reason"],
        queries=stored["queries"],
        metrics=[training.MetricComparison(**metric) for metric in stored["metrics"]],
        # Runs that were gated before there was a guard set have none of these.
        guard=[training.MetricComparison(**metric) for metric in stored.get("guard", ())],
        guard_queries=stored.get("guard_queries", 0),
        judged_before=stored.get("judged", {}).get("before", 0.0),
        judged_after=stored.get("judged", {}).get("after", 0.0),
    )


def rollout(row: RolloutRow, registry: Registry) -> rollouts.Rollout:
    """A rollout. Reads versions: call it from a thread."""
    message = rollouts.Rollout(
        id=row.id,
        collection=row.collection,
        to=ref(registry.version(row.to_digest)),
        state=_rollout_state(row.state),
        progress=row.progress,
        message=row.message,
        run_id=row.run_id,
        history=[
            rollouts.RolloutEvent(state=_rollout_state(state), time=moment(datetime.fromisoformat(at)))
            for state, at in row.history
        ],
    )
    if row.from_digest:
        getattr(message, "from").CopyFrom(ref(registry.version(row.from_digest)))
    return message


def _rollout_state(state: str) -> rollouts.RolloutState.ValueType:
    return rollouts.RolloutState.Value(f"ROLLOUT_STATE_{state.upper()}")
