"""When things were done: on the host by the clock, on a GPU by its own events, however far the host is ahead."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from penstock.consumer.profile_run.laps import Laps


def test_on_the_host_a_lap_is_over_when_it_is_called() -> None:
    laps = Laps(torch.device("cpu"))
    for _ in range(3):
        laps.lap()
    seconds = laps.seconds()
    assert len(seconds) == 4
    assert seconds[0] == 0.0
    assert seconds == sorted(seconds)


def test_on_a_gpu_a_lap_is_over_when_the_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    passed_ms = itertools.count(0, 50)

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: object) -> None:
            self.at_ms = next(passed_ms)  # the host goes on at once; the device needs 50 ms

        def elapsed_time(self, other: "Event") -> int:
            return other.at_ms - self.at_ms

    waited: list[object] = []
    fake = SimpleNamespace(Event=Event, current_stream=lambda device: None, synchronize=waited.append)
    monkeypatch.setattr(torch, "cuda", fake)
    laps = Laps(torch.device("cuda"))
    laps.lap()
    laps.lap()
    assert waited == []
    assert laps.seconds() == pytest.approx([0.0, 0.05, 0.1])
    assert len(waited) == 1
