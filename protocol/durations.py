"""How long a kind of work has usually taken, of late."""

from collections import deque
from math import ceil


class Durations:
    """The last durations of one kind of work, and their quantiles.

    Args:
        keep: how many are remembered; older ones no longer count.
    """

    def __init__(self, keep: int = 64) -> None:
        self._last: deque[float] = deque(maxlen=keep)
        self._sorted: list[float] | None = []

    def __len__(self) -> int:
        return len(self._last)

    def add(self, seconds: float) -> None:
        """One more has ended."""
        self._last.append(seconds)
        self._sorted = None

    @property
    def last(self) -> tuple[float, ...]:
        """Those that are remembered, the oldest first."""
        return tuple(self._last)

    def quantile(self, share: float) -> float:
        """The smallest duration that at least `share` of them do not exceed (nearest rank). Seconds.

        Raises ValueError where there is none yet.
        """
        if not self._last:
            raise ValueError("no duration is known yet")
        if self._sorted is None:
            self._sorted = sorted(self._last)
        return self._sorted[max(0, ceil(share * len(self._sorted)) - 1)]
