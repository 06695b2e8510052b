"""Policies: what signals say about relevance, as data with a name and a version.

A version of a policy never changes; another number is another version, or the request's own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from services.feedback.domain.crowds import CrowdRules
from services.feedback.domain.model import OPINIONS, Event, Signal
from services.kit.errors import InvalidArgument, Violation

MOST_WEIGHT = 1_000.0
MOST_DWELL_SECONDS = 86_400.0
_MOST_BIAS = 4.0
_MOST_COUNT = 2**31 - 1


@dataclass(frozen=True)
class Aim:
    """What a signal says about relevance, and how much it counts."""

    target: float
    weight: float = 1.0


@dataclass(frozen=True)
class Grades:
    """A grade of 0 aims at ``worst``, of 1 at ``best``, others in proportion."""

    worst: float = 0.0
    best: float = 1.0


@dataclass(frozen=True)
class Implicit:
    """How what people do is read.

    ``dwell_seconds``: who stays 30 s was satisfied, in the studies since Fox et al., "Evaluating implicit measures to
    improve web search" (2005). ``skipped``: shown above a document that was taken, and not taken; eyes pass from
    top to bottom (Joachims et al., "Accurately interpreting clickthrough data as implicit feedback", 2005).
    ``position_bias`` η: rank r is looked at with a probability of about r^-η, and a click there weighs r^η, at most
    ``most_inverse`` (Joachims, Swaminathan, Schnabel, "Unbiased learning-to-rank with biased feedback", 2017).
    """

    dwell_seconds: float = 30.0
    skipped: Aim = Aim(0.0, 0.0)
    position_bias: float = 0.0
    most_inverse: float = 1.0

    def inverse(self, rank: int) -> float:
        """The inverse of the probability that rank ``rank`` (from 1) was looked at, clipped."""
        return min(math.pow(rank, self.position_bias), self.most_inverse)


_THUMBS: Mapping[Signal, Aim] = {
    Signal.THUMBS_UP: Aim(1.0),
    Signal.THUMBS_DOWN: Aim(0.0),
    Signal.GRADE: Aim(0.0),
}


@dataclass(frozen=True)
class Policy:
    """From signals to judgments. Signals without an aim, or without weight, say nothing.

    A grade's weight is from its aim, its target from ``grades``. ``changed``: some numbers are not the named policy's.
    """

    name: str = "thumbs"
    aims: Mapping[Signal, Aim] = field(default_factory=lambda: dict(_THUMBS))
    version: int = 1
    grades: Grades = Grades()
    implicit: Implicit = Implicit()
    crowd: CrowdRules = field(default_factory=CrowdRules)
    changed: bool = False

    def reads(self, event: Event) -> bool:
        """Whether the event says something, or takes something back."""
        if event.signal is Signal.WITHDRAWAL:
            return True
        aim = self.aims.get(event.signal)
        if aim is None or aim.weight <= 0:
            return False
        return event.signal is not Signal.DWELL or (event.value or 0.0) >= self.implicit.dwell_seconds

    @property
    def signals(self) -> frozenset[Signal]:
        """Those that say something."""
        return frozenset(signal for signal, aim in self.aims.items() if aim.weight > 0)

    def aim(self, event: Event) -> Aim:
        """What an event that is read says."""
        aim = self.aims[event.signal]
        if event.signal is Signal.GRADE and event.value is not None:
            return Aim(self.grades.worst + event.value * (self.grades.best - self.grades.worst), aim.weight)
        return aim

    @property
    def reads_ranks(self) -> bool:
        """Whether it matters at which ranks a search showed documents."""
        return self.implicit.skipped.weight > 0 or self.implicit.position_bias > 0


KNOWN: Mapping[tuple[str, int], Policy] = {
    (policy.name, policy.version): policy
    for policy in (
        # EduRanker: liked is 1, disliked 0; a grade is what it is.
        Policy("thumbs", _THUMBS),
        # SynSearch teaches cosine distances, 0.2 for a thumb up and 1.5 for one down; similarity is 1 - distance.
        Policy(
            "distances",
            {Signal.THUMBS_UP: Aim(0.8), Signal.THUMBS_DOWN: Aim(-0.5), Signal.GRADE: Aim(0.0)},
            grades=Grades(-0.5, 0.8),
        ),
        # What is done says less than what is said: twenty clicks are a thumb. With the clip no implicit signal weighs
        # more than 1, as an explicit one does.
        Policy(
            "clicks",
            {
                **_THUMBS,
                Signal.CLICK: Aim(1.0, 0.05),
                Signal.DWELL: Aim(1.0, 0.15),
                Signal.CONVERSION: Aim(1.0, 0.2),
                Signal.DISMISSAL: Aim(0.0, 0.15),
            },
            implicit=Implicit(30.0, Aim(0.0, 0.02), 1.0, 5.0),
        ),
    )
}


def named(name: str, version: int = 0) -> Policy:
    """A policy by its name, in its newest version if ``version`` is 0. Raises ``InvalidArgument``."""
    name = name or "thumbs"
    versions = [known for (called, _), known in KNOWN.items() if called == name]
    if not versions:
        names = ", ".join(sorted({called for called, _ in KNOWN}))
        raise InvalidArgument(Violation("policy.name", f"is {name!r}; the known policies are {names}"))
    if not version:
        return max(versions, key=lambda known: known.version)
    if (name, version) not in KNOWN:
        numbers = ", ".join(str(known.version) for known in versions)
        raise InvalidArgument(Violation("policy.version", f"is {version}; of {name} there is {numbers}"))
    return KNOWN[name, version]


def adapted(
    policy: Policy,
    aims: Mapping[Signal, Aim] | None = None,
    grades: Grades | None = None,
    implicit: Implicit | None = None,
    crowd: CrowdRules | None = None,
) -> Policy:
    """A policy with those parts replaced that are given. Raises ``InvalidArgument``."""
    made = replace(
        policy,
        aims=aims or policy.aims,
        grades=grades or policy.grades,
        implicit=implicit or policy.implicit,
        crowd=crowd or policy.crowd,
    )
    wrong = [violation for violation in _violations(made) if violation]
    if wrong:
        raise InvalidArgument(*wrong)
    return replace(made, changed=made != policy)


def _violations(policy: Policy) -> list[Violation | None]:
    implicit, crowd = policy.implicit, policy.crowd
    return [
        *(
            Violation("policy.targets", f"has {signal.name}, which is no opinion; leave it out")
            for signal in policy.aims
            if signal not in OPINIONS
        ),
        *(
            _outside(f"policy.targets[{signal.name}].{name}", value, least, most)
            for signal, aim in policy.aims.items()
            for name, value, least, most in (
                ("target", aim.target, -1.0, 1.0),
                ("weight", aim.weight, 0.0, MOST_WEIGHT),
            )
        ),
        _outside("policy.grades.worst", policy.grades.worst, -1.0, 1.0),
        _outside("policy.grades.best", policy.grades.best, -1.0, 1.0),
        _outside("policy.implicit.dwell_seconds", implicit.dwell_seconds, 0.0, MOST_DWELL_SECONDS),
        _outside("policy.implicit.skipped_target", implicit.skipped.target, -1.0, 1.0),
        _outside("policy.implicit.skipped_weight", implicit.skipped.weight, 0.0, MOST_WEIGHT),
        _outside("policy.implicit.position_bias", implicit.position_bias, 0.0, _MOST_BIAS),
        _outside("policy.implicit.most_inverse", implicit.most_inverse, 1.0, MOST_WEIGHT),
        _outside("policy.crowd.burst_events", crowd.burst_events, 1, _MOST_COUNT),
        _outside("policy.crowd.burst_weight", crowd.burst_weight, 0.0, 1.0),
        _outside("policy.crowd.flood_opinions", crowd.flood_opinions, 1, _MOST_COUNT),
    ]


def _outside(name: str, value: float, least: float, most: float) -> Violation | None:
    if math.isfinite(value) and least <= value <= most:
        return None
    return Violation(name, f"is {value:g}; give {least:g} to {most:g}")


def fingerprint(collection: str, policy: Policy) -> str:
    """What tells exports of other collections, or under other numbers, apart."""
    aims = sorted((signal.value, aim.target, aim.weight) for signal, aim in policy.aims.items())
    parts = (collection, policy.name, policy.version, aims, policy.grades, policy.implicit, policy.crowd)
    return blake2b(repr(parts).encode(), digest_size=8).hexdigest()
