"""RankMe on matrices whose singular values are known, and the mean cosine against numpy."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy, ortho_group
from torch import Tensor

from penstock.consumer.evaluation.rankme import MAX_ROWS, mean_cosine, rankme, spread


def with_spectrum(sigma: list[float], num: int = 40) -> Tensor:
    """`[num, len(sigma)]` with these singular values and random directions."""
    left = ortho_group.rvs(num, random_state=0)[:, : len(sigma)]
    right = ortho_group.rvs(len(sigma), random_state=1)
    return torch.from_numpy(left @ np.diag(sigma) @ right)


@pytest.mark.parametrize("sigma", [[1.0] * 8, [5.0, 3.0, 1.0, 0.5], [1.0, 1e-3, 1e-6], [2.0**-k for k in range(10)]])
def test_is_the_exponential_of_the_spectrum_s_entropy(sigma: list[float]) -> None:
    expected = np.exp(entropy(sigma))  # scipy divides by the sum
    assert rankme(with_spectrum(sigma)) == pytest.approx(expected, rel=2e-5)  # the paper adds 1e-7 to every share


def test_equal_directions_count_fully_and_one_alone_counts_one() -> None:
    assert rankme(torch.eye(16)) == pytest.approx(16, rel=1e-4)
    line = torch.arange(1.0, 41.0)[:, None] * torch.ones(1, 16)
    assert rankme(line) == pytest.approx(1, abs=1e-3)
    assert rankme(torch.zeros(4, 3)) == 1.0


def test_is_not_centred_and_knows_no_scale() -> None:
    features = with_spectrum([4.0, 2.0, 1.0])
    assert rankme(1000 * features) == pytest.approx(rankme(features))
    shifted = features + 100.0
    sigma = np.linalg.svd(shifted.numpy(), compute_uv=False)
    assert rankme(shifted) == pytest.approx(np.exp(entropy(sigma)), rel=2e-5)
    assert rankme(shifted) < 1.2 < rankme(features)


def test_mean_cosine_is_that_of_different_rows() -> None:
    features = np.random.default_rng(0).normal(size=(30, 5)) + 1
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[~np.eye(30, dtype=bool)]
    assert mean_cosine(torch.from_numpy(features)) == pytest.approx(cosines.mean())
    assert mean_cosine(torch.ones(5, 3)) == pytest.approx(1.0)


def test_many_rows_are_drawn_from_by_the_seed() -> None:
    features = torch.randn(MAX_ROWS + 500, 3, generator=torch.Generator().manual_seed(0))
    assert spread(features, seed=1) == spread(features, seed=1) != spread(features, seed=2)
    assert spread(features).max_rank == 3
    assert spread(features).rankme == pytest.approx(3, abs=0.01)


def test_refuses_what_has_no_spectrum() -> None:
    with pytest.raises(ValueError, match=r"features must be \[N, D\] with N >= 2, got \[1, 4\]"):
        rankme(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="features must be finite numbers"):
        mean_cosine(torch.tensor([[1.0, float("nan")], [0.0, 1.0]]))


def test_more_dimensions_than_rows_are_measured_by_their_rows() -> None:
    features = np.random.default_rng(0).normal(size=(20, 300))
    sigma = np.linalg.svd(features, compute_uv=False)
    assert rankme(torch.from_numpy(features)) == pytest.approx(np.exp(entropy(sigma)), rel=1e-5)
    assert spread(torch.from_numpy(features)).max_rank == 20
