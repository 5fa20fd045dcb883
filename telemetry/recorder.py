"""What one process has done and when: how long each stage takes, and where a trace is wanted, the events themselves.

A stage is a piece of work that has a name of its own, such as `collate` or `decode`. Whoever does it says so by
`span`, or afterwards by `add`; everything that tells of time reads it here: metrics, profile, live views, trace. The
trace is a ring, so a run of weeks keeps its last minutes in bounded memory. Times are nanoseconds on the monotonic
clock, which all processes of a machine share.

An event stands on the way of every group, so it costs little: durations are only appended where they come up, and
counted when somebody looks or when there are many of them.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import ceil
from types import TracebackType
from typing import Final, Self

import numpy as np

BUCKETS_S: Final = (
    *(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    *(1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0),
)
"""Upper bounds of the buckets that durations are counted in, s; the last bucket, beyond them, has none. Stages take
milliseconds to minutes; what is used again may be an hour old."""
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
        return quantile(sorted(self.recent_s), share) if self.recent_s else float("nan")


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest of some values, at least one and ascending, that at least `share` of them do not exceed."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


class _Stage:
    """The durations of one stage, so far."""

    __slots__ = ("_buckets", "_counting", "_recent", "_total_ns", "pending")

    def __init__(self) -> None:
        self.pending: deque[int] = deque()
        """Durations that are not counted yet, ns; any thread appends to it."""
        self._counting = threading.Lock()
        self._buckets = np.zeros(len(BUCKETS_S) + 1, np.int64)
        self._total_ns = 0
        self._recent: deque[float] = deque(maxlen=RECENT)

    def count(self) -> Taken:
        """Count what is pending; everything so far."""
        with self._counting:
            latest = [self.pending.popleft() for _ in range(len(self.pending))]
            seconds = np.array(latest) * 1e-9
            self._buckets += np.bincount(np.searchsorted(BUCKETS_S, seconds), minlength=len(self._buckets))
            self._total_ns += sum(latest)
            self._recent.extend(seconds.tolist())
            buckets = tuple(self._buckets.tolist())
            return Taken(sum(buckets), self._total_ns * 1e-9, buckets, tuple(self._recent))


class Recorder:
    """Takes note of a process's stages, from any of its threads.

    Args:
        ring: events that are kept for a trace; 0 keeps none.
    """

    def __init__(self, ring: int = 0) -> None:
        self._stages: dict[str, _Stage] = {}
        self._events: deque[tuple[str, int, int, threading.Thread | str, int, int, int]] | None = None
        if ring:
            self.trace(ring)

    @property
    def is_tracing(self) -> bool:
        """Whether events are kept."""
        return self._events is not None

    def trace(self, ring: int = RING) -> None:
        """Keep the last `ring` events from now on; where some are kept already, nothing changes."""
        if self._events is None:
            self._events = deque(maxlen=ring)

    def span(self, stage: str, ticket: int = -1, attempt: int = 0, flow: Flow = Flow.NONE) -> "Span":
        """A context manager around a stage's work; noted when it ends, also by an error."""
        return Span(self, stage, ticket, attempt, flow)

    def add(
        self,
        stage: str,
        begin_ns: int,
        end_ns: int,
        ticket: int = -1,
        attempt: int = 0,
        flow: Flow = Flow.NONE,
        thread: str = "",
    ) -> None:
        """Note a stage's work that is done. Times as `time.monotonic_ns`.

        `thread` names who did it, where that was none of this process's threads: a device.
        """
        self.observe(stage, end_ns - begin_ns)
        if self._events is not None:
            self._events.append((stage, begin_ns, end_ns, thread or threading.current_thread(), ticket, attempt, flow))

    def observe(self, stage: str, nanoseconds: int) -> None:
        """Note a duration that is no work and has no place in a trace, such as an age."""
        found = self._stages.get(stage) or self._stages.setdefault(stage, _Stage())
        pending = found.pending
        pending.append(nanoseconds)
        if len(pending) >= RECENT:
            found.count()

    def mark(self, stage: str, ticket: int = -1, attempt: int = 0, flow: Flow = Flow.NONE) -> None:
        """Note, in a trace only, that something has just happened."""
        if self._events is not None:
            now = time.monotonic_ns()
            self._events.append((stage, now, now, threading.current_thread(), ticket, attempt, flow))

    def taken(self) -> Mapping[str, Taken]:
        """How long every stage that has been noted has taken so far."""
        return {name: stage.count() for name, stage in tuple(self._stages.items())}

    def drain(self, limit: int | None = None) -> Sequence[Event]:
        """Take events out of the ring, the oldest first; at most `limit`."""
        events: list[Event] = []
        if self._events is None:
            return events
        while limit is None or len(events) < limit:
            try:
                stage, begin, end, thread, ticket, attempt, flow = self._events.popleft()
            except IndexError:
                break
            # The thread itself is kept, as it may have ended; its number may be another's by now.
            name = thread if isinstance(thread, str) else thread.name
            events.append(Event(stage, begin, end, name, ticket, attempt, Flow(flow)))
        return events


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
