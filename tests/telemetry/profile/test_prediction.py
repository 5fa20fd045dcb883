"""The run with other numbers of producers: min(n·e·p, ceiling) times what the run reached of its bound."""

import pytest

from penstock.telemetry.profile.measurements import Prices
from penstock.telemetry.profile.summary import analyse
from tests.telemetry.profile.measured import measured, producer, rate, together


def test_the_run_follows_its_producers_up_to_the_next_capacity() -> None:
    # Two producers: e·p = 200 each; T = 1,000; 390 of 400 reached.
    prediction = analyse(measured(together=together(390.0, 195.0, 0.6))).prediction
    assert prediction is not None
    assert (prediction.producers, prediction.knee, prediction.ceiling_side) == (2, 5, "trainer")
    assert prediction.producers_per_rank == 5.0
    for count, bound in ((1, 200), (2, 400), (4, 800), (5, 1000), (9, 1000)):
        assert prediction.at(count) == pytest.approx(bound * 0.975)
    assert [point.bound for point in prediction.points] == ["producers"] * 4 + ["trainer"] * 4


def test_the_points_hold_what_is_asked_about_however_many_producers_there_are() -> None:
    fleet = tuple(producer(f"p{number}", 10.0) for number in range(150))
    prediction = analyse(
        measured(producers=fleet, fleet=rate(1500.0), trainer=rate(9990.0), together=together(2990.0, 1495.0, 0.7))
    ).prediction
    assert prediction is not None
    counts = [point.producers for point in prediction.points]
    # e·W = 4,000 is the ceiling: 200 producers at e·p = 20.
    assert {1, 150, 200, 300} <= set(counts)
    assert counts == sorted(set(counts))
    assert len(counts) <= 36


def test_a_trainer_that_bounds_needs_fewer_producers() -> None:
    prediction = analyse(measured(trainer=rate(190.0), together=together(190.0, 95.0, 0.001))).prediction
    assert prediction is not None
    assert prediction.knee == 1
    assert prediction.at(1) == prediction.at(2) == pytest.approx(190.0)


def test_cost_is_that_of_all_devices_for_a_million_images_trained_on() -> None:
    summary = analyse(
        measured(prices=Prices(producer_per_hour=3.6, trainer_per_hour=7.2), together=together(400.0, 200.0, 0.6))
    )
    # Two producers and a rank: 14.4 an hour, 0.004 a second; a million images at 400 a second last 2,500 s.
    assert summary.cost_per_million == pytest.approx(10.0)
    assert summary.prediction is not None
    costs = {point.producers: point.cost_per_million for point in summary.prediction.points}
    assert costs[5] == pytest.approx((5 * 3.6 + 7.2) / 3600 * 1000)
    assert summary.prediction.cheapest == 5  # the rank's hour is shared by most images


def test_without_prices_nothing_is_said_of_cost() -> None:
    summary = analyse(measured())
    assert summary.cost_per_million is None
    assert summary.prediction is not None
    assert summary.prediction.cheapest is None


def test_without_a_trainers_rate_nothing_is_predicted() -> None:
    assert analyse(measured(trainer=None)).prediction is None
    assert analyse(measured(together=None)).prediction is None
    assert analyse(measured(producers=())).prediction is None


def test_of_a_fleet_that_has_changed_nothing_is_predicted() -> None:
    assert analyse(measured(left=("b",))).prediction is None
    assert analyse(measured(joined=("c",))).prediction is None
