"""Few-shot on blobs: certain where they are apart, a guess where nothing is, and never a sibling among the shots."""

import numpy as np
import pytest
import torch
from torch import Tensor

from penstock.consumer.evaluation.config import FewShotConfig
from penstock.consumer.evaluation.few_shot import FewShot, few_shot


def measured(features: Tensor, labels: Tensor, ids: Tensor, config: FewShotConfig, seed: int = 0) -> FewShot:
    found = few_shot(features, labels, ids, config, seed=seed)
    assert isinstance(found, FewShot)
    return found


def blobs(num_classes: int, each: int, noise: float) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(num_classes).repeat_interleave(each)
    return torch.eye(num_classes)[labels] + noise * torch.randn(len(labels), num_classes, generator=random), labels


def test_blobs_that_are_apart_are_told_apart() -> None:
    features, labels = blobs(8, 25, noise=0.01)
    found = measured(features, labels, torch.arange(200), FewShotConfig(episodes=50))
    assert found.accuracy == 1.0
    assert (found.interval.low, found.interval.high) == (1.0, 1.0)


def test_noise_is_guessed_and_the_interval_holds_the_chance() -> None:
    random = torch.Generator().manual_seed(1)
    features, labels = torch.randn(8000, 16, generator=random), torch.arange(8).repeat_interleave(1000)
    found = measured(features, labels, torch.arange(8000), FewShotConfig())
    assert found.interval.low < 1 / 5 < found.interval.high
    # 75 fair guesses of one in five an episode, 600 episodes: what the binomial gives, widened by common prototypes.
    binomial = 1.96 * np.sqrt(0.2 * 0.8 / 75 / 600)
    assert binomial * 0.8 < found.accuracy - found.interval.low < binomial * 2


def test_scale_of_features_does_not_matter() -> None:
    features, labels = blobs(6, 30, noise=0.5)
    scaled = features * (0.1 + torch.rand(180, 1, generator=torch.Generator().manual_seed(2)))
    config = FewShotConfig(episodes=40)
    plain = measured(features, labels, torch.arange(180), config)
    assert measured(scaled, labels, torch.arange(180), config).accuracy == pytest.approx(plain.accuracy, abs=0.01)
    assert 0.3 < plain.accuracy < 0.99


def test_siblings_never_meet_in_an_episode() -> None:
    # Every image is one of ten copies of a random original. With a copy among the shots its class would be certain;
    # without, it is a guess.
    random = torch.Generator().manual_seed(3)
    originals = torch.randn(5 * 20, 64, generator=random)
    features, ids = originals.repeat_interleave(10, dim=0), torch.arange(100).repeat_interleave(10)
    labels = torch.arange(5).repeat_interleave(200)
    apart = measured(features, labels, ids, FewShotConfig())
    together = measured(features, labels, torch.arange(1000), FewShotConfig())
    assert apart.accuracy < 0.25
    assert together.accuracy > 0.3


def test_says_why_there_can_be_no_episode() -> None:
    features, labels = blobs(8, 19, noise=0.1)
    assert few_shot(features, labels, torch.arange(152), FewShotConfig()) == (
        "needs 5 classes with 20 different images each, found 0"
    )
    ids = torch.arange(8 * 25) // 5  # enough rows, too few originals
    features, labels = blobs(8, 25, noise=0.1)
    assert "found 0" in str(few_shot(features, labels, ids, FewShotConfig()))


def test_the_seed_decides_the_episodes() -> None:
    features, labels = blobs(8, 25, noise=0.6)
    config, ids = FewShotConfig(episodes=20), torch.arange(200)
    assert measured(features, labels, ids, config, seed=1) == measured(features, labels, ids, config, seed=1)
    assert measured(features, labels, ids, config, seed=1) != measured(features, labels, ids, config, seed=2)
