"""Profiles of rigged runs: real processes whose work is a sleep, and the verdict that must follow from the figures.

What each side can do is known from how it was rigged, so every capacity is held against that, and the prediction for
twice the producers against the rehearsal that follows.
"""

from pathlib import Path

import pytest

from penstock.telemetry.profile.summary import ProfileSummary
from tests.consumer.profile_run.rig import GROUP_BYTES, IMAGES_PER_STEP, NUM_IMAGES, paced_run, profile

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

SLOW_FLEET, FAST_FLEET = [60.0, 60.0], [300.0, 300.0]


@pytest.fixture(scope="module")
def slow_fleet(tmp_path_factory: pytest.TempPathFactory) -> ProfileSummary:
    """Two slow producers before a fast trainer."""
    return profile(tmp_path_factory.mktemp("slow-fleet"), fleet=SLOW_FLEET, trainer=600)


def _capacities(summary: ProfileSummary) -> dict[str, float]:
    return {each.side: each.images_per_s for each in summary.capacities}


def test_slow_producers_bound_a_run(slow_fleet: ProfileSummary) -> None:
    assert slow_fleet.verdict.kind == "producer-bound"
    assert slow_fleet.verdict.sureness != "low"
    found = _capacities(slow_fleet)
    assert found["producers"] == pytest.approx(120, rel=0.15)
    assert found["trainer"] == pytest.approx(600, rel=0.15)
    assert slow_fleet.achieved is not None
    assert slow_fleet.achieved.images_per_s == pytest.approx(120, rel=0.15)
    together = slow_fleet.measurements.together
    assert together is not None
    assert together.wait_share == pytest.approx(1 - 120 / 600, abs=0.1)


def test_a_profile_tells_of_every_producer_stage_and_queue(slow_fleet: ProfileSummary) -> None:
    measured = slow_fleet.measurements
    assert [each.name for each in measured.producers] == ["paced-0", "paced-1"]
    for each in measured.producers:
        assert each.alone_images_per_s == pytest.approx(60, rel=0.2)
        assert each.together_images_per_s == pytest.approx(60, rel=0.25)
        assert each.busy_share is not None
        assert each.busy_share > 0.7
    (rank,) = measured.ranks
    assert {"receive", "wait_groups", "collate", "copy", "wait_batch", "step", "sample_age"} <= rank.stages.keys()
    together = measured.together
    assert together is not None
    assert rank.stages["step"].count == pytest.approx(together.steps, abs=1)
    assert rank.stages["step"].p50_s == pytest.approx(IMAGES_PER_STEP / 600, rel=0.25)
    assert [queue.name for queue in together.queues] == ["tickets", "arrived", "reservoir", "batches"]
    assert {len(queue.filled) for queue in together.queues} == {len(together.sampled_at_s)}
    assert {(each.producer, each.rank) for each in measured.services} == {("paced-0", 0), ("paced-1", 0)}
    assert measured.overhead_share is not None
    assert measured.overhead_share < 0.05
    assert {"producers", "first groups", "first step"} <= measured.warmup_s.keys()
    assert measured.command.startswith("penstock profile --out=")
    assert measured.is_paced


def test_twice_the_producers_are_as_fast_as_predicted(slow_fleet: ProfileSummary, tmp_path: Path) -> None:
    assert slow_fleet.prediction is not None
    predicted = slow_fleet.prediction.at(2 * len(SLOW_FLEET))
    report = paced_run(tmp_path, fleet=2 * SLOW_FLEET, trainer=600, seconds=6)
    seen = min(report["images_per_s"], report["images_received"] / report["seconds"])
    assert predicted == pytest.approx(seen, rel=0.1)


def test_a_slow_trainer_bounds_a_run(tmp_path: Path) -> None:
    summary = profile(tmp_path, fleet=FAST_FLEET, trainer=150)
    assert summary.verdict.kind == "trainer-bound"
    found = _capacities(summary)
    assert found["trainer"] == pytest.approx(150, rel=0.15)
    assert found["producers"] > 300, "600, less what a busy machine takes"
    together = summary.measurements.together
    assert together is not None
    assert together.wait_share < 0.1
    arrived = next(queue for queue in together.queues if queue.name == "arrived")
    assert min(arrived.filled) > 0.5 * arrived.capacity, "from the first look on the fleet is held back"


@pytest.mark.long
def test_a_narrow_wire_bounds_a_run(tmp_path: Path) -> None:
    pipe_bytes_per_s = 75 / NUM_IMAGES * GROUP_BYTES  # of each of the two producers
    summary = profile(tmp_path, fleet=FAST_FLEET, trainer=600, wire_bytes_per_s=pipe_bytes_per_s, seconds=4)
    assert summary.verdict.kind == "wire-bound"
    found = _capacities(summary)
    assert 100 < found["wire"] < 160, "a sleep lasts longer than it is told to, so less than 150 come through"
    assert found["producers"] > 300, "what engines make while they work, not what came"


@pytest.mark.long
def test_a_slow_host_bounds_a_run(tmp_path: Path) -> None:
    summary = profile(tmp_path, fleet=FAST_FLEET, trainer=600, host_s=IMAGES_PER_STEP / 150)
    assert summary.verdict.kind == "host-bound"
    assert _capacities(summary)["host"] == pytest.approx(150, rel=0.15)


@pytest.mark.long
def test_equal_sides_are_balanced(tmp_path: Path) -> None:
    summary = profile(tmp_path, fleet=[150, 150], trainer=300)
    assert summary.verdict.kind == "balanced"
    assert set(summary.verdict.sides) == {"producers", "trainer"}


@pytest.mark.long
def test_two_ranks_are_one_profile(tmp_path: Path) -> None:
    summary = profile(tmp_path, fleet=SLOW_FLEET, trainer=300, world_size=2)
    assert summary.verdict.kind == "producer-bound"
    found = _capacities(summary)
    assert found["producers"] == pytest.approx(120, rel=0.15)
    assert found["trainer"] == pytest.approx(600, rel=0.15)
    assert [rank.rank for rank in summary.measurements.ranks] == [0, 1]
    assert {(each.producer, each.rank) for each in summary.measurements.services} == {
        (name, rank) for name in ("paced-0", "paced-1") for rank in (0, 1)
    }


@pytest.mark.long
def test_images_that_are_used_again_are_more_for_the_trainer(tmp_path: Path) -> None:
    summary = profile(tmp_path, fleet=SLOW_FLEET, trainer=600, **{"reservoir.reuse": 3})
    assert summary.verdict.kind == "producer-bound"
    assert _capacities(summary)["producers"] == pytest.approx(360, rel=0.15)
    assert summary.achieved is not None
    assert summary.achieved.images_per_s == pytest.approx(360, rel=0.15)
