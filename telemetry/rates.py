"""How fast counters have risen of late, from looks at them now and then."""

from bisect import bisect_left
from collections.abc import Hashable, Mapping

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
        self._times: list[float] = []
        self._counts: list[Mapping[Hashable, float]] = []
        self._since: dict[Hashable, float] = {}
        """Since when each counter has been known at every look."""

    def add(self, now: float, counters: Mapping[Hashable, float]) -> None:
        """What the counters say now. One that is new, or was missing at the last look, begins to count from here."""
        if len(self._times) >= 2 and now - self._times[-2] < _APART_S:
            del self._times[-1], self._counts[-1]
        self._times.append(now)
        self._counts.append(counters)
        num_old = bisect_left(self._times, now - _LONGEST_S)
        del self._times[:num_old], self._counts[:num_old]
        self._since = {key: self._since.get(key, now) for key in counters}

    def per_s(self, key: Hashable, over_s: float = RECENT_S) -> float:
        """How much a counter has risen in a second, over the last `over_s` or since it is known; else 0."""
        if key not in self._counts[-1]:
            return 0.0
        first = self._first(key, over_s)
        elapsed_s = self._times[-1] - self._times[first]
        return (self._counts[-1][key] - self._counts[first][key]) / elapsed_s if elapsed_s else 0.0

    def seldom_per_s(self, key: Hashable) -> float:
        """As `per_s`, for what may come in lumps: over a longer time where few have come in the usual one."""
        if key not in self._counts[-1]:
            return 0.0
        after, rises = self._counts[-1][key], 0
        if after == self._counts[self._first(key, _SELDOM_S)][key]:
            return 0.0
        for place in range(len(self._times) - 2, self._first(key, RECENT_S) - 1, -1):
            before = self._counts[place][key]
            rises += before != after
            after = before
            if rises == _FEW_RISES:
                return self.per_s(key)
        return self.per_s(key, _SELDOM_S)

    def known_for_s(self, key: Hashable) -> float:
        """How long a counter has been known, as far as is remembered, s."""
        return self._times[-1] - self._times[self._first(key, _LONGEST_S)] if key in self._counts[-1] else 0.0

    def _first(self, key: Hashable, over_s: float) -> int:
        """Where the counts of the last `over_s` begin, or those of a counter that is newer; it is known now."""
        return bisect_left(self._times, max(self._times[-1] - over_s, self._since[key]))
