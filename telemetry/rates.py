"""How fast counters have risen of late, from looks at them now and then."""

from collections import deque
from collections.abc import Hashable, Iterator, Mapping

RECENT_S = 10.0
"""What a rate is taken over."""
_SELDOM_S = 30.0
"""What it is taken over where a counter rises seldom: a batch of images in half a minute is no row of zeros."""
_FEW_RISES = 3
"""A counter that rises less often in the last seconds does so seldom."""
_LONGEST_S = 60.0
"""How long counts are remembered."""
_APART_S = 1.0
"""Between two counts that are remembered, at least."""


class Rates:
    """The last counts of any number of counters. Times are seconds on the caller's clock."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[Hashable, float]]] = deque()

    def add(self, now: float, counters: Mapping[Hashable, float]) -> None:
        """What the counters say now. One that is new begins to count from here."""
        if len(self._samples) >= 2 and now - self._samples[-2][0] < _APART_S:
            self._samples.pop()
        self._samples.append((now, counters))
        while now - self._samples[0][0] > _LONGEST_S:
            self._samples.popleft()

    def per_s(self, key: Hashable, over_s: float = RECENT_S) -> float:
        """How much a counter has risen in a second, over the last `over_s` or since it is known; else 0."""
        now, value, before = self._samples[-1][0], 0.0, None
        for at, count in self._back(key):
            if before is None:
                value = count
            elif now - at > over_s:
                break
            before = (at, count)
        return _slope(now, value, before)

    def seldom_per_s(self, key: Hashable) -> float:
        """As `per_s`, for what may come in lumps: over a longer time where few have come in the usual one."""
        now, value, before, rises = self._samples[-1][0], 0.0, None, 0
        for at, count in self._back(key):
            if before is None:
                value = count
            elif now - at > (RECENT_S if rises >= _FEW_RISES else _SELDOM_S):
                break
            else:
                rises += count != before[1]
            before = (at, count)
        return _slope(now, value, before)

    def known_for_s(self, key: Hashable) -> float:
        """How long a counter has been known, as far as is remembered, s."""
        now = self._samples[-1][0]
        return max((now - at for at, _ in self._back(key)), default=0.0)

    def _back(self, key: Hashable) -> Iterator[tuple[float, float]]:
        """When a counter had which count, from now back to where it was not known."""
        for at, counters in reversed(self._samples):
            if key not in counters:
                return
            yield at, counters[key]


def _slope(now: float, value: float, before: tuple[float, float] | None) -> float:
    if before is None or before[0] >= now:
        return 0.0
    return (value - before[1]) / (now - before[0])
