"""Measures of features that need no labels: RankMe, and how alike the features of different images are.

Garrido et al., "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their
Rank" (ICML 2023, arXiv 2210.02885), equation 1: exp of the entropy of p_k = σ_k / Σ|σ| + ε over the min(N, D) singular
values σ of the features Z, with ε = 1e-7. Z is taken as it is: not centred, not normalised. So a direction that all
images share counts, and a random ViT, whose features are nearly all of that kind, comes out low, as it should. The
paper compares runs of one method by it, on 25,600 rows; it does not compare widths or architectures.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-7
MAX_ROWS = 25_600
"""Rows that the paper uses; more cost time and change little."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How much of their space the features of a set of images use."""

    rankme: float
    """1 (all on one line) to `max_rank`."""
    max_rank: int
    """min(N, D)."""
    mean_cosine: float
    """Mean cosine between the features of two different images, -1 to 1; 1 where all images look the same."""


def spread(features: Tensor, *, seed: int = 0) -> Spread:
    """Measure features `[N, D]`, on `MAX_ROWS` of them drawn by `seed` where there are more.

    Raises:
        ValueError: fewer than two rows, or values that are no numbers.
    """
    if len(features) > MAX_ROWS:
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
        features = features[order[:MAX_ROWS].to(features.device)]
    return Spread(rankme(features), min(features.shape), mean_cosine(features))


def rankme(features: Tensor) -> float:
    """RankMe of features `[N, D]`; 1 .. min(N, D), all but exactly. Of features that are all zero it is 1.

    Raises:
        ValueError: fewer than two rows, or values that are no numbers.
    """
    _check(features)
    tall = features.double() if features.shape[0] >= features.shape[1] else features.double().T
    # By way of the smaller Gram matrix, which is several times faster. In float64 it loses singular values below 1e-8
    # of the largest, which EPSILON drowns anyway.
    sigma = torch.linalg.eigvalsh(tall.T @ tall).clamp_min(0).sqrt()
    total = sigma.sum()
    if total == 0:
        return 1.0
    share = sigma / total + EPSILON
    return float(torch.exp(-(share * share.log()).sum()))


def mean_cosine(features: Tensor) -> float:
    """Mean of the N (N - 1) cosines between different rows of `[N, D]`; takes and raises as `rankme`."""
    _check(features)
    unit = F.normalize(features.double(), dim=1)
    num = len(unit)
    # The squared length of the sum is the sum of all cosines, those of each row with itself included.
    return float((unit.sum(dim=0).square().sum() - unit.square().sum()) / (num * (num - 1)))


def _check(features: Tensor) -> None:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be [N, D] with N >= 2, got {list(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("features must be finite numbers, got NaN or infinity")
