"""The rates of a whole run in bounded memory."""

import numpy as np
import pytest

from penstock.telemetry.dashboard.rate_history import RateHistory, RatePoint


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000, 12_345])
def test_it_stays_small_and_its_means_are_those_of_all_moments(count: int) -> None:
    history = RateHistory(max_points=8)
    made = np.random.default_rng(count).uniform(0, 100, count)
    for second, rate in enumerate(made):
        history.add(RatePoint(float(second), float(rate), 2 * float(rate), float(rate) / 100))
    points = history.points
    assert len(points) <= 8
    if count:
        # Equal shares of the moments, but for the last: as many as fit, each weighed by how long it stands for.
        ends = np.array([-1.0] + [point.seconds for point in points])
        weights = np.diff(ends)
        assert np.average([point.made_per_s for point in points], weights=weights) == pytest.approx(made.mean())
        assert np.average([point.trained_per_s for point in points], weights=weights) == pytest.approx(2 * made.mean())
        assert np.average([point.data_wait for point in points], weights=weights) == pytest.approx(made.mean() / 100)
        assert points[-1].seconds == count - 1


def test_what_has_just_happened_is_there_at_once() -> None:
    history = RateHistory(max_points=4)
    for second in range(101):
        history.add(RatePoint(float(second), 1.0 if second == 100 else 0.0, 0.0, 0.0))
    assert history.points[-1].seconds == 100
    assert history.points[-1].made_per_s > 0
