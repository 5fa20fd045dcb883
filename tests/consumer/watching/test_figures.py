"""What trackers hear of a rank since they last heard of it, by hand calculation."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from penstock.consumer.meter import Totals
from penstock.consumer.prefetch import Prefetcher
from penstock.consumer.record import Record
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.stream import GroupStream
from penstock.consumer.watching.figures import Figures, of_stream
from penstock.consumer.watching.observed import Observed
from penstock.telemetry.recorder import Recorder
from tests.consumer.tiny_training import tiny_config

SECOND = 1_000_000_000


@pytest.fixture
def observed() -> Observed:
    stream = SimpleNamespace(look=lambda: SimpleNamespace(arrived_groups=3, held=5))
    return Observed(
        config=tiny_config("stablerep", groups=4, images=2),
        folder=RunFolder(Path("runs/x"), "run", 1),
        rank=0,
        world_size=1,
        recorder=Recorder(),
        stream=cast(GroupStream, stream),
        record=Record(),
    )


def test_stages_are_means_since_the_last_time_and_those_that_did_not_happen_are_left_out(observed: Observed) -> None:
    figures, recorder = Figures(observed), observed.recorder
    for seconds in (1, 3):
        recorder.observe("step", seconds * SECOND)
    recorder.observe("checkpoint", 8 * SECOND)
    recorder.observe("sample_age", 20 * SECOND)
    first = figures.since_last()
    assert (first["time/step_s"], first["time/checkpoint_s"], first["stream/sample_age_s"]) == (2, 8, 20)
    recorder.observe("step", 7 * SECOND)
    second = figures.since_last()
    assert second["time/step_s"] == 7
    assert not {"time/checkpoint_s", "stream/sample_age_s", "time/sample_age_s"} & set(second)


def test_memory_is_told_as_far_as_there_is_any(observed: Observed) -> None:
    figures = Figures(observed)
    assert figures.since_last() == {"stream/arrived_groups": 3, "stream/held_tickets": 5}
    observed.batches = cast(Prefetcher, SimpleNamespace(look=lambda: SimpleNamespace(reservoir_groups=7)))
    assert figures.since_last()["stream/reservoir_groups"] == 7


def test_the_share_of_the_arithmetic_is_of_the_time_since_the_last(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("penstock.consumer.watching.figures.time.monotonic", lambda: now)
    figures = Figures(observed)
    observed.flops_per_step, observed.matrix_flops_per_s = 3e9, 1e10
    observed.steps, now = 20, 110.0
    assert figures.since_last()["train/flop_share"] == pytest.approx(0.6)
    observed.steps, now = 30, 120.0
    assert figures.since_last()["train/flop_share"] == pytest.approx(0.3)


def test_the_stream_s_figures_are_the_totals() -> None:
    totals = Totals(images_made=10, images_trained=40, loop_s=4.0, wait_s=1.0, rejected=2, expired=3, hedged=4)
    figures = of_stream(totals)
    assert (figures["stream/reuse"], figures["stream/data_wait"]) == (4.0, 0.25)
    assert (figures["stream/images_made"], figures["stream/images_trained_per_s"]) == (10, 10.0)
    assert (figures["stream/messages_rejected"], figures["stream/leases_expired"]) == (2, 3)
    assert figures["stream/tickets_hedged"] == 4
    assert "stream/rejected" not in figures, "nothing filters"
    assert of_stream(Totals(filter_counts=(0, 8, 2)))["stream/rejected"] == 0.25
