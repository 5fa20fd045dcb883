"""How long each stage of a batch takes on the device, which the host that only launches it does not see.

On a CPU a stage is over when its call returns. A GPU works on what it was given while the host has gone on: there each
border between two stages is an event in its stream, and is read when somebody has waited for the batch anyway.
"""

import time

import torch

from penstock.telemetry.recorder import Recorder


class DeviceStages:
    """The stages of one batch, one right after the other, from now on.

    Args:
        recorder: takes note of them.
        device: which works.
    """

    def __init__(self, recorder: Recorder, device: torch.device) -> None:
        self._recorder = recorder
        self._device = device
        self._begun_ns = time.monotonic_ns()
        self._names: list[str] = []
        self._borders = [self._border()] if device.type == "cuda" else []

    def done(self, name: str) -> None:
        """What was begun since the one before is called `name`."""
        if self._borders:
            self._names.append(name)
            self._borders.append(self._border())
            return
        begun_ns, self._begun_ns = self._begun_ns, time.monotonic_ns()
        self._recorder.add(name, begun_ns, self._begun_ns)

    def waited(self) -> None:
        """Somebody has waited for the batch: take note of what a GPU did, as if the last stage had ended just now."""
        if not self._borders:
            return
        now_ns = time.monotonic_ns()
        at_ns = [now_ns - round(1e6 * border.elapsed_time(self._borders[-1])) for border in self._borders]
        for name, begin_ns, end_ns in zip(self._names, at_ns[:-1], at_ns[1:], strict=True):
            self._recorder.add(name, begin_ns, end_ns, thread=str(self._device))

    def _border(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
