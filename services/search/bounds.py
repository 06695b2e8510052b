"""How much goes at once: what is bounded by number alone is not bounded, where one thing may be huge (I10)."""

from collections.abc import Iterable

# Of what goes into one message of at most 32 MiB: whatever is sent beside it is less than the rest.
MESSAGE_BYTES = 16 * 1024 * 1024


def fitting(sizes: Iterable[int], most: int) -> int:
    """How many of the first go together: one at least, if there is one, and no more than make up ``most``."""
    number = 0
    for size in sizes:
        most -= size
        if number and most < 0:
            break
        number += 1
    return number
