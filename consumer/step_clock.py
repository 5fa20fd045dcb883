"""How long the parts of a step take, where they are done: on the host by the clock, on a GPU by its own events.

A GPU runs behind the host, so the host's clock would tell how long it takes to ask. Events are put between the parts of
a step and read in a later one, when they have passed: nobody waits for them. Their place on the host's time line
follows from one wait at the first step.
"""

import time
from collections import deque

import torch

from penstock.telemetry.recorder import Recorder


class StepClock:
    """Takes note of the parts of a rank's steps.

    Args:
        recorder: gets them.
        device: where the steps run.
    """

    def __init__(self, recorder: Recorder, device: torch.device) -> None:
        self._recorder = recorder
        self._device = device if device.type == "cuda" else None
        self._lap_ns = 0
        self._events: list[tuple[str, torch.cuda.Event]] = []
        self._passing: deque[list[tuple[str, torch.cuda.Event]]] = deque()
        """Steps whose events have not been read; the host is a bounded number of steps ahead."""
        self._known: tuple[torch.cuda.Event, float] | None = None
        """The last event that was read, and when it passed, ns."""

    def begin(self) -> None:
        """A step begins."""
        if self._device is None:
            self._lap_ns = time.monotonic_ns()
            return
        first = self._event()
        if self._known is None:
            torch.cuda.synchronize(self._device)
            self._known = first, float(time.monotonic_ns())
        self._read(*self._known)
        self._events = [("", first)]

    def lap(self, stage: str) -> None:
        """The part of the step since the last call was `stage`."""
        if self._device is None:
            now_ns = time.monotonic_ns()
            self._recorder.add(stage, self._lap_ns, now_ns)
            self._lap_ns = now_ns
        else:
            self._events.append((stage, self._event()))

    def end(self) -> None:
        """The step is done, with its last lap."""
        if self._device is not None:
            self._passing.append(self._events)

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self, passed: torch.cuda.Event, passed_ns: float) -> None:
        """Take note of the steps that have passed, from an event whose time is known.

        Each from the one before it: over hours their distance would be read too coarsely.
        """
        while self._passing and self._passing[0][-1][1].query():
            for stage, event in self._passing.popleft():
                before_ns, passed_ns = passed_ns, passed_ns + 1e6 * passed.elapsed_time(event)
                passed = event
                if stage:
                    self._recorder.add(stage, round(before_ns), round(passed_ns), thread=str(self._device))
        self._known = passed, passed_ns
