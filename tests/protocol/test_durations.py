"""Quantiles of recent durations, by the nearest-rank rule."""

import pytest

from penstock.protocol.durations import Durations


@pytest.mark.parametrize(
    ("share", "expected"),
    # The worked example of the nearest-rank method: the list 15, 20, 35, 40, 50.
    [(0.05, 15.0), (0.30, 20.0), (0.40, 20.0), (0.50, 35.0), (1.00, 50.0)],
)
def test_quantiles_are_by_nearest_rank(share: float, expected: float) -> None:
    durations = Durations()
    for seconds in (35.0, 50.0, 15.0, 40.0, 20.0):
        durations.add(seconds)
    assert durations.quantile(share) == expected


def test_the_95th_percentile_of_a_hundred_is_the_95th() -> None:
    durations = Durations(100)
    for seconds in range(100, 0, -1):
        durations.add(float(seconds))
    assert durations.quantile(0.95) == 95.0


def test_only_the_last_count() -> None:
    durations = Durations(keep=3)
    for seconds in (100.0, 1.0, 2.0):
        durations.add(seconds)
    assert durations.quantile(1.0) == 100.0
    durations.add(3.0)
    assert durations.quantile(1.0) == 3.0
    assert len(durations) == 3


def test_without_any_there_is_no_quantile() -> None:
    with pytest.raises(ValueError, match="no duration is known yet"):
        Durations().quantile(0.5)
