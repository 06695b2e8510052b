"""Who speaks too much to be one among many: floods and bursts.

Nobody's feedback is dropped for it. Whoever is flagged weighs less in judgments, by bounds that are
part of the policy, so that another policy may see it otherwise over the same events.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.feedback.domain.model import MINUTE_MS, Actor, Event


@dataclass(frozen=True)
class CrowdRules:
    """How much one actor may count.

    ``burst_events``: more events within one minute of the clock are a burst. A person who looks at results does not
    judge one a second. ``burst_weight`` multiplies a burst's weights: at a tenth, a minute's worth of clicking by
    a script weighs about what a person could have said in it. ``flood_opinions``: what one actor's opinions in a
    collection may weigh together, unless others said more: about an afternoon of labelling by hand.
    """

    burst_events: int = 60
    burst_weight: float = 0.1
    flood_opinions: int = 200


@dataclass(frozen=True)
class Crowd:
    """The flagged of one collection: minutes of bursts, and what share of a flood's weight is left."""

    bursts: frozenset[tuple[Actor, int]] = frozenset()
    burst_weight: float = 1.0
    floods: Mapping[Actor, float] = field(default_factory=dict)

    def share(self, event: Event) -> float:
        """What is left of an event's weight, 0 to 1; 1 of an actor's who is not flagged."""
        burst = (event.by, event.time // MINUTE_MS) in self.bursts
        return min(self.burst_weight if burst else 1.0, self.floods.get(event.by, 1.0))

    def flags(self, event: Event) -> bool:
        """Whether the event is part of a flood or a burst."""
        return event.by in self.floods or (event.by, event.time // MINUTE_MS) in self.bursts

    @property
    def actors(self) -> frozenset[Actor]:
        """All who are flagged."""
        return frozenset({*(actor for actor, _ in self.bursts), *self.floods})


def crowd(opinions: Mapping[Actor, int], minutes: Mapping[tuple[Actor, int], int], rules: CrowdRules) -> Crowd:
    """Who is flagged in a collection.

    ``opinions``: of how many pairs of query and document each actor said something, those without a name together
    under ("", ""). ``minutes``: events of named actors in each minute since 1970; those with few may be left out.
    An actor who floods keeps the bound's share of the weight, so that the whole flood weighs as much as the bound.
    """
    everybody = sum(opinions.values())
    floods = {}
    for actor, count in opinions.items():
        others = everybody - count
        most = max(rules.flood_opinions, others)
        if actor != ("", "") and others and count > most:
            floods[actor] = most / count
    bursts = frozenset(key for key, count in minutes.items() if count > rules.burst_events and key[0] != ("", ""))
    return Crowd(bursts, rules.burst_weight, floods)
