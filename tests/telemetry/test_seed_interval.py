"""Intervals over seeds are SciPy's."""

import numpy as np
import pytest
from scipy import stats

from penstock.telemetry.seed_interval import seed_interval, t_quantile


@pytest.mark.parametrize("degrees", [*range(1, 12), 29, 30, 99, 100])
def test_the_quantile_is_that_of_students_t(degrees: int) -> None:
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-12)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 10])
def test_the_interval_is_scipys(count: int) -> None:
    values = np.random.default_rng(count).uniform(0.2, 0.9, count)
    found = seed_interval(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert found.half_width is not None
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), rel=1e-10)
    assert found.num_seeds == count


def test_one_seed_has_no_interval() -> None:
    found = seed_interval([0.5])
    assert (found.mean, found.half_width, found.num_seeds) == (0.5, None, 1)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert seed_interval([0.5, 0.5, 0.5]).half_width == 0


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="values must not be empty"):
        seed_interval([])
