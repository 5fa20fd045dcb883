"""Rates from arrivals: of regular bursts, of several producers, of too little; and rates that go on at one time."""

import numpy as np
import pytest

from penstock.consumer.profile_run.pouring import Arrival, added, rate_of, steady
from penstock.telemetry.profile.measurements import Rate


def _bursts(period_s: float, groups: int, until_s: float, images: int = 4, name: str = "ann") -> list[Arrival]:
    """Batches of so many groups, every `period_s`, each group a tenth of a millisecond after the one before."""
    times = np.arange(period_s, until_s, period_s)
    return [Arrival(at + 1e-4 * number, name, images) for at in times for number in range(groups)]


@pytest.mark.parametrize("since", [0.05, 0.33, 0.61, 0.99])
@pytest.mark.parametrize("until", [5.02, 5.47, 5.98])
def test_whole_batches_make_no_error_wherever_the_window_begins_and_ends(since: float, until: float) -> None:
    arrivals = _bursts(0.7, groups=4, until_s=10)  # 16 images every 0.7 s
    assert rate_of(arrivals, since, until).images_per_s == pytest.approx(16 / 0.7, rel=0.005)


def test_what_lies_outside_of_the_window_does_not_count() -> None:
    early, late = _bursts(0.01, 1, until_s=1.0), _bursts(0.1, 1, until_s=5.0)
    rate = rate_of(sorted(early + [one for one in late if one.at_s > 1.0], key=lambda one: one.at_s), 1.0, 4.0, 77)
    assert rate.images_per_s == pytest.approx(40, rel=0.01)
    assert rate.images == 30 * 4
    assert rate.nbytes == 77


def test_too_little_for_a_line_is_counted_over_the_window() -> None:
    rate = rate_of([Arrival(1.0, "ann", 8), Arrival(2.0, "ann", 8)], 0.0, 4.0)
    assert (rate.images, rate.seconds, rate.windows) == (16, 4.0, ())
    assert rate_of([], 0.0, 4.0).images_per_s == 0


def test_windows_tell_a_rate_that_falls_from_one_that_is_steady() -> None:
    steady_rate = rate_of(_bursts(0.05, 1, until_s=5.0), 0.0, 5.0)
    assert len(steady_rate.windows) == 5
    assert steady_rate.windows == pytest.approx([80.0] * 5, rel=0.03)
    falling = [Arrival(5 * (number / 100) ** 2, "ann", 4) for number in range(1, 101)]
    windows = rate_of(falling, 0.0, 5.0).windows
    assert list(windows) == sorted(windows, reverse=True)
    assert windows[0] > 2 * windows[-1]


def test_few_arrivals_have_no_windows() -> None:
    assert rate_of(_bursts(0.5, groups=4, until_s=5.0), 0.0, 5.0).windows == (), "nine batches tell of batches"


def test_steps_of_equal_length_are_steady() -> None:
    times = np.linspace(0.0, 10.0, 51)
    assert steady(times.tolist(), 64) == pytest.approx([64 * 5.0] * 5)


def test_ranks_add_up() -> None:
    one = Rate(images=100, seconds=2.0, windows=(40.0, 60.0), nbytes=10, busy_share=0.5)
    other = Rate(images=60, seconds=3.0, windows=(10.0, 30.0), nbytes=6)
    both = added([one, other])
    assert both.images_per_s == pytest.approx(70)
    assert (both.images, both.nbytes, both.busy_share) == (160, 16, 0.5)
    assert both.windows == (50.0, 90.0)
