"""The simulation's clock: what happens next."""

import heapq
from collections.abc import Callable
from typing import Any


class Timeline:
    """Events in the order of their time; of two at one time the one that was asked for first. Seconds from 0."""

    def __init__(self) -> None:
        self.now = 0.0
        self.num_events = 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def at(self, when: float, act: Callable[..., None], *args: object) -> None:
        """Call `act` with `args` at a time, which is not before now."""
        self.num_events += 1
        heapq.heappush(self._events, (when, self.num_events, act, args))

    def run(self, until: float) -> None:
        """Let everything happen that does so before `until`."""
        events, pop = self._events, heapq.heappop
        while events and events[0][0] < until:
            self.now, _, act, args = pop(events)
            act(*args)
        self.now = until
