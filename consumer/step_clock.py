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
    """Takes note of the parts of a rank's steps, and of the whole (`step`).

    Args:
        recorder: gets them.
        device: where the steps run.
    """

    def __init__(self, recorder: Recorder, device: torch.device) -> None:
        self._recorder = recorder
        self._device = device if device.type == "cuda" else None
        self._begun_ns = self._lap_ns = 0
        self._events: list[tuple[str, torch.cuda.Event]] = []
        self._passing: deque[list[tuple[str, torch.cuda.Event]]] = deque()
        """Steps whose events have not been read; the host is a bounded number of steps ahead."""
        self._read_up_to: tuple[torch.cuda.Event, float] | None = None
        """The last event that was read, and when it passed, ns."""

    def begin(self) -> None:
        """A step begins."""
        if self._device is None:
            self._begun_ns = self._lap_ns = time.monotonic_ns()
            return
        first = self._event()
        if self._read_up_to is None:
            torch.cuda.synchronize(self._device)
            self._read_up_to = first, float(time.monotonic_ns())
        self._read()
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
        if self._device is None:
            self._recorder.add("step", self._begun_ns, self._lap_ns)
        else:
            self._passing.append(self._events)

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self) -> None:
        """Take note of the steps that have passed."""
        while self._passing and self._passing[0][-1][1].query():
            (_, first), *laps = self._passing.popleft()
            begun_ns = lap_ns = self._when(first)
            for stage, event in laps:
                before_ns, lap_ns = lap_ns, self._when(event)
                self._recorder.add(stage, round(before_ns), round(lap_ns))
            self._recorder.add("step", round(begun_ns), round(lap_ns))

    def _when(self, event: torch.cuda.Event) -> float:
        """When an event passed, from the last one before it: over hours their distance would be read too coarsely."""
        assert self._read_up_to is not None  # set by the first step's beginning
        before, before_ns = self._read_up_to
        at_ns = before_ns + 1e6 * before.elapsed_time(event)
        self._read_up_to = event, at_ns
        return at_ns
