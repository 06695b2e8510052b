"""From events to the opinions that stand, and from those to judgments."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from services.feedback.domain.crowds import Crowd
from services.feedback.domain.model import (
    EXPLICIT,
    IMPLICIT,
    TAKEN,
    Event,
    Impression,
    Judgment,
    Signal,
    Who,
    normalized,
)
from services.feedback.domain.policies import Policy

# A query and a document.
Pair = tuple[str, str]


@dataclass(frozen=True)
class _Opinion:
    target: float
    weight: float
    flagged: bool


def standing(events: Iterable[Event]) -> list[Event]:
    """The events that are somebody's opinion now, in the order of their numbers.

    Of one actor on one query and document: what came before the last withdrawal is as if it had never been; the
    latest explicit signal stands alone; without one, all implicit signals stand.
    """
    groups: dict[tuple[Who, str, str], list[Event]] = {}
    for event in events:
        groups.setdefault((event.who, normalized(event.query), event.document_id), []).append(event)
    stand: list[Event] = []
    for group in groups.values():
        group.sort(key=lambda event: event.moment)
        last = max((i for i, event in enumerate(group) if event.signal is Signal.WITHDRAWAL), default=-1)
        left = group[last + 1 :]
        explicit = [event for event in left if event.signal in EXPLICIT]
        stand += explicit[-1:] or [event for event in left if event.signal in IMPLICIT]
    return sorted(stand, key=lambda event: event.number)


def judgments(
    events: Iterable[Event],
    policy: Policy,
    impressions: Mapping[str, Impression] | None = None,
    crowd: Crowd | None = None,
) -> list[Judgment]:
    """Judgments by query, then document.

    ``events`` are all those of their queries; ``impressions`` what their searches showed, by search id, as far as it
    is known. Each actor has one opinion on a query and a document: the explicit one that stands, else the weightiest
    implicit one. Opinions are averaged by weight, and the judgment's weight is their sum.
    """
    impressions, crowd = impressions or {}, crowd or Crowd()
    stand = standing(event for event in events if policy.reads(event))
    opinions: dict[Pair, dict[Who, _Opinion]] = {}
    for event in sorted(stand, key=lambda event: event.moment):
        _hold(opinions, event, event.document_id, _opinion(event, policy, impressions, crowd))
    if policy.implicit.skipped.weight > 0:
        aim = policy.implicit.skipped
        for event, document_id in _skipped(stand, impressions):
            opinion = _Opinion(aim.target, aim.weight * crowd.share(event), crowd.flags(event))
            if event.who not in opinions.get((normalized(event.query), document_id), {}):
                _hold(opinions, event, document_id, opinion)
    return [
        _judgment(pair, list(by_actor.values()))
        for pair, by_actor in sorted(opinions.items())
        if math.fsum(opinion.weight for opinion in by_actor.values()) > 0
    ]


def _opinion(event: Event, policy: Policy, impressions: Mapping[str, Impression], crowd: Crowd) -> _Opinion:
    aim, weight = policy.aim(event), crowd.share(event)
    if event.signal in IMPLICIT and event.search_id in impressions:
        weight *= policy.implicit.inverse(impressions[event.search_id].ranks.get(event.document_id, 1))
    return _Opinion(aim.target, aim.weight * weight, crowd.flags(event))


def _hold(opinions: dict[Pair, dict[Who, _Opinion]], event: Event, document_id: str, opinion: _Opinion) -> None:
    """Of one actor's opinions the weightiest; among equals the later."""
    held = opinions.setdefault((normalized(event.query), document_id), {})
    if event.who not in held or opinion.weight >= held[event.who].weight:
        held[event.who] = opinion


def _skipped(stand: Iterable[Event], impressions: Mapping[str, Impression]) -> Iterator[tuple[Event, str]]:
    """Documents shown above one that was taken, each with the event that took it: the lowest of that search."""
    lowest: dict[tuple[Who, str], tuple[int, Event]] = {}
    for event in stand:
        if event.signal not in TAKEN or event.search_id not in impressions:
            continue
        rank = impressions[event.search_id].ranks.get(event.document_id, 0)
        key = event.who, event.search_id
        if key not in lowest or rank > lowest[key][0]:
            lowest[key] = rank, event
    for rank, event in lowest.values():
        for document_id, above in impressions[event.search_id].ranks.items():
            if above < rank:
                yield event, document_id


def _judgment(pair: Pair, opinions: list[_Opinion]) -> Judgment:
    weight = math.fsum(opinion.weight for opinion in opinions)
    target = math.fsum(opinion.target * opinion.weight for opinion in opinions) / weight
    # A mean lies within its values, also after rounding.
    target = min(max(target, min(o.target for o in opinions)), max(o.target for o in opinions))
    return Judgment(*pair, target, weight, len(opinions), any(opinion.flagged for opinion in opinions))
