"""How long the stages of a batch took on the device that worked."""

import time

import pytest
import torch

from penstock.producer.device_stages import DeviceStages
from penstock.telemetry.recorder import Recorder


def test_on_a_cpu_a_stage_is_over_when_its_call_returns() -> None:
    recorder = Recorder(ring=8)
    begun_ns = time.monotonic_ns()
    stages = DeviceStages(recorder, torch.device("cpu"))
    stages.done("text")
    stages.done("denoise")
    stages.waited()
    text, denoise = recorder.drain()
    assert (text.stage, denoise.stage) == ("text", "denoise")
    assert begun_ns <= text.begin_ns <= text.end_ns == denoise.begin_ns <= denoise.end_ns <= time.monotonic_ns()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_lasts_as_long_as_the_device_worked_and_not_as_long_as_it_was_launched() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    recorder = Recorder(ring=8)
    matrix = torch.randn(8192, 8192, device=device)
    torch.mm(matrix, matrix)
    torch.cuda.synchronize(device)
    begun_ns = time.monotonic_ns()
    stages = DeviceStages(recorder, device)
    for _ in range(30):
        torch.mm(matrix, matrix)
    stages.done("denoise")
    launched_ns = time.monotonic_ns()
    stages.done("decode")
    torch.cuda.synchronize(device)
    stages.waited()
    denoise, decode = recorder.drain()
    assert (denoise.thread, decode.thread) == (str(device), str(device))
    assert denoise.end_ns - denoise.begin_ns > 2 * (launched_ns - begun_ns)
    assert denoise.end_ns == decode.begin_ns
    assert begun_ns - 1_000_000 <= denoise.begin_ns < decode.end_ns <= time.monotonic_ns()
