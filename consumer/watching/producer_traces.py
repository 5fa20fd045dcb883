"""The events that producers have told a rank of, until the trace is written: the last of each, in bounded memory.

A producer that floods pushes out its own events first, and then those of whoever has told the most.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.protocol.actions import Traced
from penstock.protocol.limits import MAX_PRODUCERS
from penstock.protocol.watching import EVENT_WIDTH, Trace
from penstock.telemetry.recorder import RING, Event, Flow

_MAX_BYTES = 64 << 20
"""Of all producers together: some 1.5 million events."""
_OVERHEAD_BYTES = 512
"""What a message costs beside its events and its words."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What one message told."""

    trace: Trace
    """Without its events."""
    events: NDArray[np.int64]
    """int64 [n, 5], as in TRACE."""
    nbytes: int


@dataclass(slots=True)
class ProducerTrace:
    """What is kept of one producer."""

    name: str
    told: deque[_Told] = field(default_factory=deque)
    num_events: int = 0
    nbytes: int = 0

    @property
    def uncertainty_ns(self) -> int:
        """How wrong the times may be, at worst."""
        return max((told.trace.uncertainty_ns for told in self.told), default=0)

    def events(self, since_ns: int, until_ns: int) -> list[Event]:
        """What is kept and happened within these times of the rank's clock, in the order in which it was told."""
        return [
            Event(
                told.trace.stages[kind],
                begin_ns,
                begin_ns + lasts_ns,
                told.trace.threads[kind],
                ticket,
                attempt,
                Flow(told.trace.flows[kind]),
            )
            for told in self.told
            for kind, begin_ns, lasts_ns, ticket, attempt in told.events.tolist()
            if since_ns <= begin_ns and begin_ns + lasts_ns <= until_ns
        ]

    def add(self, told: _Told) -> None:
        """Keep one more message; those before the last `RING` events go."""
        self.told.append(told)
        self.num_events += len(told.events)
        self.nbytes += told.nbytes
        while self.num_events > RING:
            self.drop_oldest()

    def drop_oldest(self) -> None:
        """Forget the oldest message."""
        oldest = self.told.popleft()
        self.num_events -= len(oldest.events)
        self.nbytes -= oldest.nbytes


class ProducerTraces:
    """What is kept of all producers of a rank. For one thread until the stream is closed.

    Args:
        max_bytes: of all together.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._nbytes = 0
        self._of: dict[bytes, ProducerTrace] = {}

    @property
    def producers(self) -> list[ProducerTrace]:
        """One for each connection, in the order in which they first told something."""
        return list(self._of.values())

    def add(self, traced: Traced) -> None:
        """A producer has told of events."""
        trace = traced.trace
        if not trace.events:
            return
        if traced.peer not in self._of and len(self._of) >= MAX_PRODUCERS:
            self._forget(next(iter(self._of)))
        of = self._of.setdefault(traced.peer, ProducerTrace(traced.producer))
        events = np.array(trace.events, np.int64).reshape(-1, EVENT_WIDTH)
        words = Trace(
            uncertainty_ns=trace.uncertainty_ns,
            stages=trace.stages,
            threads=trace.threads,
            flows=trace.flows,
            events=(),
        )
        nbytes = _OVERHEAD_BYTES + events.nbytes + 4 * sum(map(len, (*trace.stages, *trace.threads)))
        before = of.nbytes
        of.add(_Told(words, events, nbytes))
        self._nbytes += of.nbytes - before
        while self._nbytes > self._max_bytes:
            self._drop_from_largest()

    def _drop_from_largest(self) -> None:
        peer = max(self._of, key=lambda peer: self._of[peer].nbytes)
        of = self._of[peer]
        before = of.nbytes
        of.drop_oldest()
        self._nbytes += of.nbytes - before
        if not of.told:
            del self._of[peer]

    def _forget(self, peer: bytes) -> None:
        self._nbytes -= self._of.pop(peer).nbytes
