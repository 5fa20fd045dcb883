"""Says so when a run stands still: which rank, at which step, for how long, and what it waits for.

The stream's own time-outs end a run that cannot go on, and the collectives' ends one whose ranks have lost each other.
Both take minutes. This watch speaks earlier, and ends nothing.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Self

_log = logging.getLogger(__name__)

_LOOKS_PER_REPORT = 4
_LONGEST_SLEEP_S = 1.0


class StallClock:
    """When to speak, and what to say; without thread and clock. Times are seconds on the caller's clock.

    Args:
        rank: whose steps these are.
        report_s: time without a finished step before the first report; the next come after twice that, four times, …
        step: the step that is under way.
        now: the time.
    """

    def __init__(self, rank: int, report_s: float, step: int, now: float) -> None:
        self._rank = rank
        self._report_s = report_s
        self._step = step
        self._since = now
        self._due_s = report_s

    def look(self, now: float, waiting: str | None) -> str | None:
        """What is to be said now, if anything. `waiting` is what the stream waits for; None for nothing."""
        stalled_s = now - self._since
        if stalled_s < self._due_s:
            return None
        while self._due_s <= stalled_s:
            self._due_s *= 2
        why = f"waits for {waiting}" if waiting else "waits for no group, but for the other ranks or its device"
        return f"rank {self._rank} has finished no step for {stalled_s:.0f} s: step {self._step} {why}"

    def done(self, step: int, now: float) -> str | None:
        """Step `step` is done. What is to be said, which is nothing where nothing was said about its length."""
        stalled_s, spoke = now - self._since, self._due_s > self._report_s
        self._step, self._since, self._due_s = step + 1, now, self._report_s
        return f"rank {self._rank} goes on: step {step} is done after {stalled_s:.0f} s" if spoke else None


class ProgressWatch:
    """Looks at a rank's steps from a thread of its own. A context manager.

    Args:
        rank, report_s: as in `StallClock`.
        step: the first step.
        waiting: what the stream waits for, None where it waits for nothing.
    """

    def __init__(self, rank: int, report_s: float, step: int, waiting: Callable[[], str | None]) -> None:
        self._clock = StallClock(rank, report_s, step, time.monotonic())
        self._waiting = waiting
        self._sleep_s = min(_LONGEST_SLEEP_S, report_s / _LOOKS_PER_REPORT)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="penstock-watch", daemon=True)

    def done(self, step: int) -> None:
        """Step `step` is done."""
        with self._lock:
            text = self._clock.done(step, time.monotonic())
        if text:
            _log.warning(text)

    def close(self) -> None:
        """The steps are over. Does nothing the second time."""
        self._closed.set()
        self._thread.join(timeout=_LONGEST_SLEEP_S)

    def _watch(self) -> None:
        while not self._closed.wait(self._sleep_s):
            waiting = self._waiting()
            with self._lock:
                text = self._clock.look(time.monotonic(), waiting)
            if text:
                _log.warning(text)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
