"""Wilson's interval against scipy, the cluster bootstrap against the variance of cluster means."""

import numpy as np
import pytest
from scipy.stats import binomtest

from penstock.consumer.evaluation.intervals import accuracy_interval, wilson, z_score


@pytest.mark.parametrize(("right", "num"), [(0, 10), (10, 10), (7, 10), (431, 500), (1, 3)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_equals_scipy(right: int, num: int, confidence: float) -> None:
    theirs = binomtest(right, num).proportion_ci(confidence, method="wilson")
    assert wilson(right, num, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_independent_images_get_wilson() -> None:
    right = np.arange(100) < 80
    interval = accuracy_interval(right, np.arange(100))
    assert interval.method == "Wilson"
    assert (interval.low, interval.high) == wilson(80, 100)


def test_images_of_one_original_widen_the_interval_as_their_clusters_say() -> None:
    # 200 originals of 5 images each, all of them right or all of them wrong: as sure as 200 images, not as 1,000.
    rng = np.random.default_rng(0)
    right = (rng.random(200) < 0.7).repeat(5)
    ids = np.arange(200).repeat(5)
    interval = accuracy_interval(right, ids)
    assert interval.method == "bootstrap of 200 clusters"
    share = right.mean()
    expected = 2 * 1.96 * np.sqrt(share * (1 - share) / 200)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.1)
    assert interval.low < share < interval.high
    naive = wilson(int(right.sum()), 1000)
    assert interval.high - interval.low > 1.8 * (naive[1] - naive[0])


def test_clusters_of_unequal_size_are_weighted_by_their_images() -> None:
    right, ids = np.array([True] * 90 + [False] * 10), np.array([0] * 45 + [1] * 45 + list(range(2, 12)))
    interval = accuracy_interval(right, ids, seed=3)
    assert interval.low < 0.9 <= interval.high


def test_the_seed_decides_the_resamples() -> None:
    right, ids = np.random.default_rng(0).random(300) < 0.8, np.arange(300) // 2
    assert accuracy_interval(right, ids, seed=3) == accuracy_interval(right, ids, seed=3)
    assert accuracy_interval(right, ids, seed=3) != accuracy_interval(right, ids, seed=4)


@pytest.mark.parametrize("all_right", [True, False])
def test_all_right_or_all_wrong_is_no_certainty(all_right: bool) -> None:
    interval = accuracy_interval(np.full(100, all_right), np.arange(100) // 4)
    assert interval.method == "Wilson over 25 clusters"
    assert (interval.low, interval.high) == wilson(25 * all_right, 25)


def test_z_is_the_normal_s() -> None:
    assert z_score(0.95) == pytest.approx(1.959964, abs=1e-6)


def test_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        accuracy_interval(np.zeros(0, bool), np.zeros(0, np.int64))
