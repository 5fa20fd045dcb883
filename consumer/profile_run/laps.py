"""When a device had done one thing after the other, without waiting for each."""

import time

import torch


class Laps:
    """Takes the time from now on; a GPU runs behind the host, so there its own events tell.

    Args:
        device: idle.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self._events: list[torch.cuda.Event] = []
        self._host_s: list[float] = []
        self.lap()

    def lap(self) -> None:
        """All that was asked of the device by now is one thing."""
        if self._device is None:
            self._host_s.append(time.monotonic())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)

    def seconds(self) -> list[float]:
        """When each was done, s since the beginning, which is the first; waits for the last."""
        if self._device is None:
            return [at - self._host_s[0] for at in self._host_s]
        torch.cuda.synchronize(self._device)
        return [1e-3 * self._events[0].elapsed_time(event) for event in self._events]
