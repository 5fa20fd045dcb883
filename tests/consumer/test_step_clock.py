"""The parts of a step: all of it on the host; on a GPU by events that are read later."""

import itertools
import time

import pytest
import torch
from accelerate import Accelerator

from penstock.consumer.step_clock import StepClock
from penstock.consumer.training_step import TrainingStep
from penstock.telemetry.recorder import Recorder
from tests.consumer.tiny_training import build_tiny, random_batch, tiny_config

PARTS = ("augment", "forward", "backward", "optimizer")


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_tells_how_long_its_parts_take(parts: int) -> None:
    config = tiny_config("stablerep", grad_accum_steps=parts)
    tiny, recorder = build_tiny(config, Accelerator(cpu=True)), Recorder(100)
    built = tiny.step
    step = TrainingStep(
        config,
        built._accelerator,
        built._model,
        built._optimizer,  # type: ignore[arg-type]
        built._schedule,
        recorder,
    )
    begun = time.monotonic_ns()
    for number in range(3):
        step(random_batch(config, number), number)
    whole_s = (time.monotonic_ns() - begun) * 1e-9
    taken = recorder.taken()
    assert set(taken) == set(PARTS)
    assert {stage.count for stage in taken.values()} == {3}
    assert sum(stage.seconds for stage in taken.values()) == pytest.approx(whole_s, rel=0.2)
    events = recorder.drain()
    assert [event.stage for event in events] == [*PARTS] * 3
    for before, after in itertools.pairwise(events):
        assert before.end_ns <= after.begin_ns


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_parts_last_as_long_as_they_do_there() -> None:
    device = torch.device("cuda")
    recorder = Recorder(1000)
    clock = StepClock(recorder, device)
    for _ in range(6):
        clock.begin()
        torch.cuda._sleep(20_000_000)  # some 10 ms; the host goes on at once
        clock.lap("long")
        torch.cuda._sleep(2_000_000)
        clock.lap("short")
        clock.end()
    torch.cuda.synchronize()
    clock.begin()
    taken = recorder.taken()
    assert taken["long"].count == taken["short"].count == 6
    assert taken["long"].seconds == pytest.approx(10 * taken["short"].seconds, rel=0.2)
    assert taken["long"].quantile(0.5) > 0.005
    now = time.monotonic_ns()
    ends = [event.end_ns for event in recorder.drain()]
    assert ends == sorted(ends)
    assert 0 <= now - ends[-1] < 5e8
