"""The probe against torch's own SGD and BatchNorm, one classifier at a time, and against scikit-learn's accuracy."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from penstock.consumer.evaluation.config import LinearProbeConfig
from penstock.consumer.evaluation.linear_probe import Choice, LinearProbe

CONFIG = LinearProbeConfig(learning_rates=(0.01, 0.5, 3.0), epochs=5, batch_size=32)


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return torch.from_numpy(data.data[order]).float() / 16, torch.from_numpy(data.target[order]).long()


def one_by_one(features: Tensor, labels: Tensor, base_lr: float, batch_norm: bool, seed: int) -> nn.Module:
    """The reference's way: a module, autograd, torch.optim.SGD, a cosine over all steps. The draws are the same."""
    random = torch.Generator().manual_seed(seed)
    linear = nn.Linear(64, 10)
    with torch.no_grad():
        linear.weight.copy_(0.01 * torch.randn(64, 10, generator=random).T)
        linear.bias.zero_()
    model = nn.Sequential(nn.BatchNorm1d(64, affine=False, eps=1e-6), linear) if batch_norm else nn.Sequential(linear)
    steps = len(features) // 32
    optimizer = torch.optim.SGD(model.parameters(), lr=base_lr * 32 / 256, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5 * steps)
    for _ in range(5):
        order = torch.randperm(len(features), generator=random)
        for step in range(steps):
            rows = order[step * 32 : (step + 1) * 32]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(features[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("base_lr", CONFIG.learning_rates)
def test_all_of_the_grid_trains_as_torch_trains_one(base_lr: float, batch_norm: bool) -> None:
    features, labels = digits()
    train, test = slice(0, 300), slice(300, 900)  # 300 is no multiple of 32: the rest of an epoch is left out
    probe = LinearProbe(features[train], labels[train], 10, CONFIG, seed=7)
    alone = one_by_one(features[train], labels[train], base_lr, batch_norm, seed=7)
    ours = probe.predict(features[test], Choice(base_lr, batch_norm, 0.0, False))
    with torch.no_grad():
        theirs = alone(features[test]).argmax(dim=1)
    assert (ours == theirs).float().mean() > 0.998  # float32 may settle a tie the other way
    assert 0.1 < (ours == labels[test]).float().mean() < 0.99


def test_is_as_good_as_logistic_regression() -> None:
    features, labels = digits()
    fit, val, test = slice(0, 800), slice(800, 1100), slice(1100, None)
    probe = LinearProbe(features[fit], labels[fit], 10, LinearProbeConfig(epochs=30))
    choice = probe.choose(features[val], labels[val])
    accuracy = float((probe.predict(features[test], choice) == labels[test]).float().mean())
    theirs = LogisticRegression(max_iter=500).fit(features[fit], labels[fit]).score(features[test], labels[test])
    assert accuracy == pytest.approx(theirs, abs=0.02)


def test_the_choice_is_the_best_on_the_validation_images() -> None:
    features, labels = digits()
    probe = LinearProbe(features[:300], labels[:300], 10, CONFIG)
    val, truth = features[300:700], labels[300:700]
    choice = probe.choose(val, truth)
    settings = [Choice(lr, norm, 0.0, False) for lr in CONFIG.learning_rates for norm in (False, True)]
    accuracies = [float((probe.predict(val, setting) == truth).double().mean()) for setting in settings]
    assert choice.val_accuracy == pytest.approx(max(accuracies))
    assert float((probe.predict(val, choice) == truth).double().mean()) == pytest.approx(max(accuracies))


def test_a_choice_at_the_grid_s_edge_is_marked() -> None:
    features, labels = digits()
    small = LinearProbe(features[:300], labels[:300], 10, LinearProbeConfig(learning_rates=(1e-6, 1e-5), epochs=2))
    assert small.choose(features[300:500], labels[300:500]).at_edge
    alone = LinearProbe(features[:300], labels[:300], 10, LinearProbeConfig(learning_rates=(0.1,), epochs=2))
    assert not alone.choose(features[300:500], labels[300:500]).at_edge


def test_a_classifier_that_diverges_hurts_no_other() -> None:
    features, labels = digits()
    config = LinearProbeConfig(learning_rates=(0.1, 1e38), epochs=3)
    both = LinearProbe(features[:300], labels[:300], 10, config)
    alone = LinearProbe(features[:300], labels[:300], 10, LinearProbeConfig(learning_rates=(0.1,), epochs=3))
    setting = Choice(0.1, False, 0.0, False)
    assert torch.equal(both.predict(features[300:], setting), alone.predict(features[300:], setting))
    assert both.choose(features[300:600], labels[300:600]).learning_rate == 0.1


def test_the_seed_decides_all() -> None:
    noise, random_labels = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)), digits()[1][:200]

    def predictions(seed: int) -> Tensor:
        probe = LinearProbe(noise, random_labels, 10, CONFIG, seed=seed)
        return probe.predict(noise, Choice(0.5, True, 0.0, False))

    assert torch.equal(predictions(1), predictions(1))
    assert not torch.equal(predictions(1), predictions(2))
