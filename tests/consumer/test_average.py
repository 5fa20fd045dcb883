"""The moving average of a module, against its formula."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from penstock.consumer.average import Average

torch.set_num_threads(1)


def _module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).double()


def _step(module: nn.Module, seed: int) -> None:
    """Other weights and other running statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    module(torch.randn(8, 3, generator=generator, dtype=torch.float64))


def _weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def test_it_begins_as_a_copy_that_shares_nothing() -> None:
    module = _module()
    average = Average(module, 0.9)
    before = _weights(module)
    torch.testing.assert_close(_weights(average.module), before, rtol=0, atol=0)
    _step(module, 1)
    torch.testing.assert_close(_weights(average.module), before, rtol=0, atol=0)
    assert module[1].num_batches_tracked == 1
    assert average.module[1].num_batches_tracked == 0
    assert all(parameter.requires_grad for parameter in module.parameters()), "the module goes on learning"
    assert module.training


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999, 1.0])
def test_weights_follow_the_formula_and_buffers_are_copied(decay: float) -> None:
    module = _module()
    average = Average(module, decay)
    expected = _weights(module)
    for step in range(5):
        _step(module, step)
        average.follow(module, (step + 1) / 5)
        expected = [
            decay * mean + (1 - decay) * weight for mean, weight in zip(expected, _weights(module), strict=True)
        ]
        torch.testing.assert_close(_weights(average.module), expected, rtol=0, atol=1e-12)
        for mine, its in zip(average.module.buffers(), module.buffers(), strict=True):
            assert torch.equal(mine, its)
            assert mine.data_ptr() != its.data_ptr()


@pytest.mark.parametrize(
    ("progress", "decay"),
    [
        (0.0, 0.994),
        (0.25, 1 - 0.006 * (1 + math.sqrt(0.5)) / 2),
        (0.5, 0.997),
        (0.75, 1 - 0.006 * (1 - math.sqrt(0.5)) / 2),
        (1.0, 1.0),
    ],
)
def test_the_decay_follows_half_a_cosine(progress: float, decay: float) -> None:
    # arXiv 2104.02057: m = 1 - (1 - m0) (cos(pi k / K) + 1) / 2.
    assert Average(_module(), 0.994, 1.0).decay_at(progress) == pytest.approx(decay, abs=1e-15)


def test_without_an_end_the_decay_is_the_same_throughout() -> None:
    assert {Average(_module(), 0.9).decay_at(progress) for progress in (0.0, 0.3, 1.0)} == {0.9}


def test_the_decay_of_the_progress_is_the_one_that_is_used() -> None:
    module = _module()
    average = Average(module, 0.0, 1.0)
    before = _weights(module)
    _step(module, 1)
    average.follow(module, 1.0)
    torch.testing.assert_close(_weights(average.module), before, rtol=0, atol=0)
    average.follow(module, 0.0)
    torch.testing.assert_close(_weights(average.module), _weights(module), rtol=0, atol=1e-15)


def test_it_stays_in_evaluation_and_out_of_the_gradients() -> None:
    average = Average(_module(), 0.9)
    parent = nn.ModuleList([average]).train()
    assert parent.training
    assert not any(module.training for module in average.modules())
    rows = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(average.module(rows), average.module(rows)), "no dropout"
    average.module(rows).sum().backward()
    assert all(parameter.grad is None for parameter in average.parameters())
    average.follow(_module(), 0.5)
    assert all(parameter.grad_fn is None and not parameter.requires_grad for parameter in average.parameters())


def test_it_goes_on_from_its_state() -> None:
    module = _module()
    average = Average(module, 0.5)
    for step in range(3):
        _step(module, step)
        average.follow(module, 0.5)
    restored = Average(_module(), 0.5)
    restored.load_state_dict(copy.deepcopy(average.state_dict()))
    _step(module, 9)
    for each in (average, restored):
        each.follow(module, 0.5)
    torch.testing.assert_close(_weights(restored.module), _weights(average.module), rtol=0, atol=0)
