"""The contract's messages, from and to what the domain knows."""

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, timedelta

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from diapason.common.v1.version_pb2 import VersionRef
from diapason.feedback.v1 import feedback_pb2 as pb
from services.feedback.adapters.reading import Filters, Stored, Summary
from services.feedback.adapters.records import Erasure, Version
from services.feedback.adapters.tables import ImpressionRow
from services.feedback.domain import policies
from services.feedback.domain.crowds import CrowdRules
from services.feedback.domain.model import Judgment, Signal
from services.feedback.domain.policies import Aim, Grades, Implicit, Policy
from services.feedback.domain.rules import (
    MAX_DOCUMENT_ID_CHARACTERS,
    MAX_NAME_CHARACTERS,
    MAX_QUERY_CHARACTERS,
    Submission,
    check_texts,
)
from services.kit.errors import InvalidArgument, Violation

_SIGNALS = {pb.Signal.Value(f"SIGNAL_{signal.name}"): signal for signal in Signal}
_NUMBERS = {signal: number for number, signal in _SIGNALS.items()}
_EPOCH = date(1970, 1, 1)
# The year 10000, where timestamps end.
_MOST_SECONDS = 253_402_300_800
_MOST_NUMBER = 2**31 - 1
_DIGEST_CHARACTERS = 64

NAME, DOCUMENT, QUERY = MAX_NAME_CHARACTERS, MAX_DOCUMENT_ID_CHARACTERS, MAX_QUERY_CHARACTERS


def submission(item: pb.Feedback) -> Submission:
    """One item of a request."""
    return Submission(
        key=item.idempotency_key,
        search_id=item.search_id,
        collection=item.query.collection,
        query=item.query.text,
        document_id=item.document_id,
        signal=_SIGNALS.get(item.signal),
        value=item.value if item.HasField("value") else None,
        actor=item.actor,
        reason=item.reason,
        tenant=item.tenant,
        time=_milliseconds(item.time) if item.HasField("time") else None,
        client=item.client,
    )


def impression_row(at: int, impression: pb.Impression) -> ImpressionRow:
    """What a search showed. ``at`` is its place in the request. Raises ``InvalidArgument``."""
    where = f"impressions[{at}]"
    if not impression.search_id or not impression.route.collection:
        raise InvalidArgument(Violation(where, "lacks its search_id or its route"))
    # Search bounds the rest; what can't be stored at all must not reach the database.
    check_texts(
        [
            (f"{where}.search_id", impression.search_id, NAME),
            (f"{where}.query", impression.query, QUERY),
            (f"{where}.route.collection", impression.route.collection, NAME),
            (f"{where}.actor", impression.actor, NAME),
            (f"{where}.tenant", impression.tenant, NAME),
            *((f"{where}.shown[{i}].document_id", s.document_id, DOCUMENT) for i, s in enumerate(impression.shown)),
        ]
    )
    moment = impression.time
    if not impression.HasField("time"):
        moment = Timestamp()
        moment.GetCurrentTime()
    elif not _is_time(moment):
        raise InvalidArgument(Violation(f"{where}.time", "is no time since 1970; leave it out, or give one"))
    return ImpressionRow(
        search_id=impression.search_id,
        collection=impression.route.collection,
        query=impression.query,
        actor=impression.actor,
        tenant=impression.tenant,
        route=MessageToDict(impression.route, preserving_proto_field_name=True),
        shown=[{"document_id": s.document_id, "rank": s.rank, "score": s.score} for s in impression.shown],
        at=moment.ToDatetime(tzinfo=UTC),
    )


# Policies


def policy(given: pb.JudgmentPolicy) -> Policy:
    """The named policy, with the parts that are given. Raises ``InvalidArgument``."""
    return policies.adapted(
        policies.named(given.name, given.version),
        dict(_aims(given.targets)),
        Grades(given.grades.worst, given.grades.best) if given.HasField("grades") else None,
        _implicit(given.implicit) if given.HasField("implicit") else None,
        _crowd(given.crowd) if given.HasField("crowd") else None,
    )


def _aims(targets: Iterable[pb.SignalTarget]) -> Iterator[tuple[Signal, Aim]]:
    for i, item in enumerate(targets):
        signal = _SIGNALS.get(item.signal)
        if signal is None:
            raise InvalidArgument(Violation(f"policy.targets[{i}].signal", "is missing or unknown"))
        yield signal, Aim(item.target, item.weight)


def _implicit(given: pb.ImplicitRules) -> Implicit:
    skipped = Aim(given.skipped_target, given.skipped_weight)
    return Implicit(given.dwell_seconds, skipped, given.position_bias, given.most_inverse)


def _crowd(given: pb.CrowdRules) -> CrowdRules:
    return CrowdRules(given.burst_events, given.burst_weight, given.flood_opinions)


def policy_to_pb(policy: Policy) -> pb.JudgmentPolicy:
    """The policy with all its numbers."""
    implicit, crowd = policy.implicit, policy.crowd
    return pb.JudgmentPolicy(
        name=policy.name,
        version=policy.version,
        targets=[
            pb.SignalTarget(signal=_NUMBERS[signal], target=aim.target, weight=aim.weight)
            for signal, aim in sorted(policy.aims.items(), key=lambda item: _NUMBERS[item[0]])
        ],
        grades=pb.GradeRange(worst=policy.grades.worst, best=policy.grades.best),
        implicit=pb.ImplicitRules(
            dwell_seconds=implicit.dwell_seconds,
            skipped_target=implicit.skipped.target,
            skipped_weight=implicit.skipped.weight,
            position_bias=implicit.position_bias,
            most_inverse=implicit.most_inverse,
        ),
        crowd=pb.CrowdRules(
            burst_events=crowd.burst_events, burst_weight=crowd.burst_weight, flood_opinions=crowd.flood_opinions
        ),
        changed=policy.changed,
    )


def judgment_to_pb(judgment: Judgment) -> pb.Judgment:
    """A judgment."""
    return pb.Judgment(**vars(judgment))


# Lists


def filters(request: pb.ListFeedbackRequest) -> Filters:
    """What is to be listed. Raises ``InvalidArgument``."""
    check_texts(
        [
            ("collection", request.collection, NAME),
            ("actor", request.actor, NAME),
            ("tenant", request.tenant, NAME),
            ("query", request.query, QUERY),
            ("document_id", request.document_id, DOCUMENT),
            ("search_id", request.search_id, NAME),
        ]
    )
    moments = {name: getattr(request, name) for name in ("since", "until") if request.HasField(name)}
    wrong = [name for name, moment in moments.items() if not _is_time(moment)]
    if wrong:
        raise InvalidArgument(*(Violation(name, "is no time since 1970; leave it out, or give one") for name in wrong))
    unknown = [i for i, number in enumerate(request.signals) if number not in _SIGNALS]
    if unknown:
        raise InvalidArgument(*(Violation(f"signals[{i}]", "is missing or unknown") for i in unknown))
    return Filters(
        collection=request.collection,
        actor=request.actor,
        tenant=request.tenant if request.HasField("tenant") else None,
        query=request.query,
        document_id=request.document_id,
        signals=frozenset(_SIGNALS[number] for number in request.signals),
        search_id=request.search_id,
        **{name: _milliseconds(moment) for name, moment in moments.items()},
    )


def stored_to_pb(stored: Stored) -> pb.StoredFeedback:
    """An event as it was sent, and what became known of it."""
    event = stored.event
    said = pb.Feedback(
        idempotency_key=stored.key,
        document_id=event.document_id,
        signal=_NUMBERS[event.signal],
        value=event.value,
        actor=event.actor,
        reason=stored.reason,
        tenant=event.tenant,
        client=stored.client,
    )
    if event.search_id:
        said.search_id = event.search_id
    else:
        said.query.CopyFrom(pb.QuerySubject(collection=stored.collection, text=event.query))
    said.time.FromMilliseconds(event.time)
    made = pb.StoredFeedback(number=event.number, feedback=said, collection=stored.collection, query=event.query)
    made.arrival_time.FromDatetime(stored.arrived)
    return made


# Summaries and erasures


def summary_to_pb(summary: Summary, today: int, days: int) -> pb.GetSummaryResponse:
    """Counts; ``today`` is a day since 1970."""
    response = pb.GetSummaryResponse(
        impressions=summary.impressions,
        signals=_counts(summary.signals),
        queries=summary.queries,
        actors=summary.actors,
        flagged_actors=summary.flagged,
        days=[
            pb.DaySummary(date=str(_EPOCH + timedelta(number)), signals=_counts(summary.days.get(number, {})))
            for number in range(today - days + 1, today + 1)
        ],
    )
    if summary.last:
        response.last_feedback_time.FromDatetime(summary.last)
    return response


def erasure_to_pb(erasure: Erasure) -> pb.EraseSubjectResponse:
    """What was erased, and who had read it."""
    return pb.EraseSubjectResponse(
        signals=_counts(erasure.signals),
        impressions=erasure.impressions,
        consumers=[
            pb.FeedbackConsumer(consumer=name, versions=[VersionRef(**vars(version)) for version in versions])
            for name, versions in erasure.consumers.items()
        ],
    )


def version(ref: VersionRef) -> Version:
    """A version with all its names. Raises ``InvalidArgument``."""
    wrong = []
    if not ref.model:
        wrong.append(Violation("version.model", "is empty; name the model"))
    if not 1 <= ref.number <= _MOST_NUMBER:
        wrong.append(Violation("version.number", f"is {ref.number}; give the version's number, from 1"))
    if len(ref.digest) != _DIGEST_CHARACTERS or set(ref.digest) - set("0123456789abcdef"):
        wrong.append(Violation("version.digest", f"is {ref.digest[:80]!r}; give 64 hexadecimal digits"))
    if wrong:
        raise InvalidArgument(*wrong)
    check_texts([("version.model", ref.model, NAME)])
    return Version(ref.model, ref.number, ref.digest)


def _counts(signals: Mapping[Signal, int]) -> list[pb.SignalCount]:
    ordered = sorted(signals.items(), key=lambda item: _NUMBERS[item[0]])
    return [pb.SignalCount(signal=_NUMBERS[signal], count=count) for signal, count in ordered]


def _is_time(stamp: Timestamp) -> bool:
    return 0 <= stamp.seconds < _MOST_SECONDS and 0 <= stamp.nanos < 10**9


def _milliseconds(stamp: Timestamp) -> int:
    """Since 1970. By hand, since a time that is none must come as far as the check that says so."""
    return stamp.seconds * 1000 + stamp.nanos // 1_000_000


def today() -> int:
    """The day since 1970, by UTC."""
    return int(time.time() // 86_400)
