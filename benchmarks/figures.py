"""What benchmarks do with what they measured, and how they get at it."""

import socket
import sys
from collections.abc import Sequence


def ratios(values: Sequence[float], to: Sequence[float]) -> list[float]:
    """Each value to what was measured beside it."""
    return [value / other for value, other in zip(values, to, strict=True)]


def p99(values: Sequence[float]) -> float:
    """The value that one in a hundred exceeds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def say(what: str) -> None:
    """Tell a person how far it is."""
    sys.stderr.write(what + "\n")
