"""Rates from counts: over the last seconds, over longer where little comes, and of new counters from their start."""

import pytest

from penstock.telemetry.rates import Rates


def test_a_rate_is_of_the_last_seconds_and_not_of_all_time() -> None:
    rates = Rates()
    for second in range(41):
        rates.add(float(second), {"images": 2.0 * second if second <= 20 else 40 + 8.0 * (second - 20)})
    assert rates.per_s("images") == rates.seldom_per_s("images") == pytest.approx(8)
    assert rates.per_s("images", over_s=40) == pytest.approx((40 + 8 * 20) / 40)


def test_looks_that_follow_closely_change_no_rate() -> None:
    rates = Rates()
    for look in range(160):
        rates.add(look / 4, {"images": 5 * look / 4})
    assert rates.per_s("images") == pytest.approx(5)
    assert len(rates._times) <= 81  # four in three seconds, of a minute


def test_what_comes_in_lumps_has_a_rate_in_between() -> None:
    """A batch of 60 images every 20 s is 3 a second, give or take where the last lump lies."""
    rates = Rates()
    for second in range(60):
        rates.add(float(second), {"images": 60.0 * (second // 20)})
    assert rates.per_s("images") == 0
    assert rates.seldom_per_s("images") == pytest.approx(60 / 30)


def test_what_has_stopped_has_no_rate_after_a_while() -> None:
    rates = Rates()
    for second in range(80):
        rates.add(float(second), {"images": float(min(second, 40))})
    assert rates.seldom_per_s("images") == 0


def test_a_counter_is_counted_from_where_it_is_first_seen() -> None:
    rates = Rates()
    rates.add(0.0, {})
    rates.add(5.0, {"late": 100.0})
    assert rates.per_s("late") == 0
    rates.add(7.0, {"late": 106.0})
    assert rates.per_s("late") == pytest.approx(3)
    assert rates.known_for_s("late") == 2
    assert (rates.per_s("never"), rates.known_for_s("never")) == (0, 0)


def test_a_counter_that_was_missing_for_a_while_begins_anew() -> None:
    """As that of a producer that was lost, forgotten, and is back: it counts from nothing."""
    rates = Rates()
    for second in range(5):
        rates.add(float(second), {"images": 1000.0 + second})
    rates.add(5.0, {})
    assert (rates.per_s("images"), rates.seldom_per_s("images"), rates.known_for_s("images")) == (0, 0, 0)
    rates.add(6.0, {"images": 0.0})
    rates.add(8.0, {"images": 14.0})
    assert rates.per_s("images") == rates.seldom_per_s("images") == pytest.approx(7)
    assert rates.known_for_s("images") == 2
