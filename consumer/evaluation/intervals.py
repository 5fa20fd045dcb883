"""Confidence intervals of accuracies: Wilson's where images are independent, a cluster bootstrap where they are not.

Several renders of one scan are right or wrong together; an interval that took each for a sample of its own would be too
narrow. The bootstrap draws whole clusters with replacement (Davison and Hinkley, "Bootstrap Methods", 1997, section
3.8) and takes percentiles. Neither says anything of the luck of training: for that, train with several seeds.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, and how it was made."""

    low: float
    high: float
    method: str


def accuracy_interval(
    right: NDArray[np.bool_], ids: NDArray[np.int64], *, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """The interval of the mean of `right` bool [N], where rows of one id in `ids` int64 [N] belong together.

    Raises ValueError where there is no row.
    """
    if len(right) == 0:
        raise ValueError("right must have at least one row, got none")
    clusters, cluster_of = np.unique(ids, return_inverse=True)
    num_right = int(right.sum())
    if len(clusters) == len(right):
        return Interval(*wilson(num_right, len(right), confidence), "Wilson")
    share = num_right / len(right)
    if share in (0.0, 1.0):
        # Every resample is alike. Wilson's for as many samples as there are clusters is on the safe side.
        return Interval(
            *wilson(round(share * len(clusters)), len(clusters), confidence), f"Wilson over {len(clusters)} clusters"
        )
    sizes = np.bincount(cluster_of)
    rights = np.bincount(cluster_of, weights=right)
    rng = np.random.default_rng(seed)
    shares = np.empty(NUM_RESAMPLES)
    for resample in range(NUM_RESAMPLES):
        drawn = rng.integers(len(clusters), size=len(clusters))
        shares[resample] = rights[drawn].sum() / sizes[drawn].sum()
    tail = (1 - confidence) / 2
    low, high = np.quantile(shares, [tail, 1 - tail])
    return Interval(float(low), float(high), f"bootstrap of {len(clusters)} clusters")


def wilson(num_right: int, num: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (JASA 22, 1927) of `num_right` of `num` independent trials."""
    z = z_score(confidence)
    share = num_right / num
    centre = share + z * z / (2 * num)
    reach = z * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    scale = 1 + z * z / num
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def z_score(confidence: float) -> float:
    """How many standard deviations either side hold the share `confidence` of a normal distribution."""
    return NormalDist().inv_cdf((1 + confidence) / 2)
