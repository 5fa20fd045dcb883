"""What one process has done and when: how long each stage takes, and where a trace is wanted, the events themselves.

A stage is a piece of work that has a name of its own, such as `collate` or `decode`. Whoever does it says so by
`span`, or afterwards by `add`; everything that tells of time reads it here: metrics, profile, live views, trace. The
trace is a ring, so a run of weeks keeps its last minutes in bounded memory. Times are nanoseconds on the monotonic
clock, which all processes of a machine share.
"""

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import ceil
from types import TracebackType
from typing import Final, Self

BUCKETS_S: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper bounds of the buckets that durations are counted in, s; the last bucket, beyond them, has none."""
RECENT: Final = 512
"""Durations of a stage that are kept for its quantiles."""
RING: Final = 65_536
"""Events that a trace keeps; older ones make room."""


class Flow(IntEnum):
    """Where an event stands on a ticket's way."""

    NONE = 0
    BEGIN = 1
    STEP = 2
    END = 3


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a trace."""

    stage: str
    begin_ns: int
    end_ns: int
    thread: str
    ticket: int = -1
    """Global index of the ticket that it is about; -1 for none."""
    attempt: int = 0
    flow: Flow = Flow.NONE


@dataclass(frozen=True, slots=True)
class Taken:
    """How long a stage has taken so far."""

    count: int
    seconds: float
    """In all."""
    buckets: tuple[int, ...]
    """How many lasted at most `BUCKETS_S[i]` and longer than the bound before; last, those beyond all bounds."""
    recent_s: tuple[float, ...]
    """The last durations, the oldest first; at most `RECENT`."""

    def quantile(self, share: float) -> float:
        """Of the recent durations, by nearest rank, s; NaN where there are none."""
        if not self.recent_s:
            return float("nan")
        ordered = sorted(self.recent_s)
        return ordered[max(0, ceil(share * len(ordered)) - 1)]


class _Stage:
    """The durations of one stage, so far."""

    __slots__ = ("buckets", "lock", "recent", "total_ns")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.total_ns = 0
        self.recent: deque[float] = deque(maxlen=RECENT)


class Recorder:
    """Takes note of a process's stages, from any of its threads.

    Args:
        ring: events that are kept for a trace; 0 keeps none.
    """

    def __init__(self, ring: int = 0) -> None:
        self._stages: dict[str, _Stage] = {}
        self._adding = threading.Lock()
        self._events: deque[tuple[str, int, int, int, int, int, int]] | None = deque(maxlen=ring) if ring else None
        self._threads: dict[int, str] = {}

    @property
    def is_tracing(self) -> bool:
        """Whether events are kept."""
        return self._events is not None

    def span(self, stage: str, ticket: int = -1, attempt: int = 0, flow: Flow = Flow.NONE) -> "Span":
        """A context manager around a stage's work; noted when it ends, also by an error."""
        return Span(self, stage, ticket, attempt, flow)

    def add(
        self, stage: str, begin_ns: int, end_ns: int, ticket: int = -1, attempt: int = 0, flow: Flow = Flow.NONE
    ) -> None:
        """Note a stage's work that is done. Times as `time.monotonic_ns`."""
        self.observe(stage, end_ns - begin_ns)
        if self._events is not None:
            self._events.append((stage, begin_ns, end_ns, threading.get_ident(), ticket, attempt, flow))

    def observe(self, stage: str, nanoseconds: int) -> None:
        """Note a duration that is no work and has no place in a trace, such as an age."""
        found = self._stages.get(stage) or self._new(stage)
        seconds = nanoseconds * 1e-9
        with found.lock:
            found.buckets[bisect_left(BUCKETS_S, seconds)] += 1
            found.total_ns += nanoseconds
            found.recent.append(seconds)

    def mark(self, stage: str, ticket: int = -1, attempt: int = 0, flow: Flow = Flow.NONE) -> None:
        """Note, in a trace only, that something has just happened."""
        if self._events is not None:
            now = time.monotonic_ns()
            self._events.append((stage, now, now, threading.get_ident(), ticket, attempt, flow))

    def taken(self) -> Mapping[str, Taken]:
        """How long every stage that has been noted has taken so far."""
        return {name: _taken(stage) for name, stage in tuple(self._stages.items())}

    def drain(self, limit: int | None = None) -> Sequence[Event]:
        """Take events out of the ring, the oldest first; at most `limit`."""
        events: list[Event] = []
        if self._events is None:
            return events
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        self._threads |= {ident: name for ident, name in names.items() if ident is not None}
        while limit is None or len(events) < limit:
            try:
                stage, begin, end, ident, ticket, attempt, flow = self._events.popleft()
            except IndexError:
                break
            events.append(Event(stage, begin, end, self._threads.get(ident, str(ident)), ticket, attempt, Flow(flow)))
        return events

    def _new(self, stage: str) -> _Stage:
        with self._adding:
            return self._stages.setdefault(stage, _Stage())


class Span:
    """A stage's work that is going on."""

    __slots__ = ("_attempt", "_begin_ns", "_flow", "_recorder", "_stage", "_ticket")

    def __init__(self, recorder: Recorder, stage: str, ticket: int, attempt: int, flow: Flow) -> None:
        self._recorder = recorder
        self._stage = stage
        self._ticket = ticket
        self._attempt = attempt
        self._flow = flow
        self._begin_ns = 0

    def __enter__(self) -> Self:
        self._begin_ns = time.monotonic_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._recorder.add(self._stage, self._begin_ns, time.monotonic_ns(), self._ticket, self._attempt, self._flow)


def _taken(stage: _Stage) -> Taken:
    with stage.lock:
        return Taken(sum(stage.buckets), stage.total_ns * 1e-9, tuple(stage.buckets), tuple(stage.recent))
