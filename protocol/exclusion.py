"""Keys of whom a rank hears nothing for a while, because nearly all that came with them was refused.

A message that is refused costs a rank as much as one that is not: it is read, counted and answered. An honest producer
is refused some when a rank begins another life, or when what it holds went to another: a few for each of its tickets.
Whoever floods is refused thousands.
"""

from typing import Final

MOST_REFUSED: Final = 1000
"""Messages of one connection that may be refused within `WITHIN_S`."""
WITHIN_S: Final = 5.0
"""Not one second: a rank that is busy with all else reads less of a flood."""
FIRST_S: Final = 10.0
"""How long nothing is heard the first time; each time twice as long as the time before."""
LONGEST_S: Final = 600.0
"""And at most. Who has been quiet for as long afterwards begins anew."""


class Exclusions:
    """Until when each key is excluded. One thread excludes; any may ask. Times are seconds on a monotonic clock."""

    def __init__(self) -> None:
        self._terms: dict[str, tuple[float, float]] = {}
        """By key: until when, and how long that was; as many at most as there are keys on the list."""

    def exclude(self, key: str, now: float) -> float:
        """From now on nothing of `key` is heard. Returns for how many seconds."""
        until, lasted = self._terms.get(key, (now, 0.0))
        was_long_ago = now - until >= LONGEST_S
        lasts = FIRST_S if was_long_ago or not lasted else min(2 * lasted, LONGEST_S)
        self._terms[key] = now + lasts, lasts
        return lasts

    def left_s(self, key: str, now: float) -> float:
        """Seconds for which nothing of `key` is heard yet; 0 where it is."""
        until, _ = self._terms.get(key, (now, 0.0))
        return max(0.0, until - now)


class RefusedCount:
    """Counts what one connection was refused within `WITHIN_S`."""

    __slots__ = ("_count", "_since")

    def __init__(self) -> None:
        self._since = float("-inf")
        self._count = 0

    def one_more(self, now: float) -> bool:
        """Whether this is the one that is too many."""
        if now - self._since >= WITHIN_S:
            self._since, self._count = now, 0
        self._count += 1
        return self._count == MOST_REFUSED
