"""A tower's gradients part by part against those of one pass, in float64."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from penstock.consumer.cached_features import CachedFeatures

torch.set_num_threads(1)


def _tower() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)).double()


def _rows(num: int) -> Tensor:
    return torch.randn(num, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _loss(features: Tensor) -> Tensor:
    """Every row's gradient depends on every row."""
    unit = nn.functional.normalize(features, dim=1)
    return (unit @ unit.T * 5).logsumexp(dim=1).square().mean()


def _gradients(module: nn.Module) -> list[Tensor]:
    found = [parameter.grad for parameter in module.parameters()]
    assert all(gradient is not None for gradient in found)
    return [gradient.clone() for gradient in found if gradient is not None]


@pytest.mark.parametrize("num_parts", [1, 2, 3, 4, 11, 50])
def test_gradients_are_those_of_the_whole_batch(num_parts: int) -> None:
    tower, rows = _tower(), _rows(11)
    expected_loss = _loss(tower(rows))
    expected_loss.backward()
    expected = _gradients(tower)
    tower.zero_grad()
    cached = CachedFeatures(tower, rows, num_parts, nullcontext)
    loss = _loss(cached.features)
    loss.backward()
    assert all(parameter.grad is None for parameter in tower.parameters()), "the loss ends at the features"
    cached.backward()
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=1e-13)
    torch.testing.assert_close(_gradients(tower), expected, rtol=0, atol=1e-13)


def test_the_first_pass_keeps_no_graph_and_no_pass_sees_more_than_a_part() -> None:
    tower, seen = _tower(), list[tuple[int, bool]]()

    def encode(rows: Tensor) -> Tensor:
        seen.append((len(rows), torch.is_grad_enabled()))
        features: Tensor = tower(rows)
        return features

    cached = CachedFeatures(encode, _rows(11), 3, nullcontext)
    assert cached.features.is_leaf
    assert cached.features.requires_grad
    _loss(cached.features).backward()
    cached.backward()
    assert seen == [(4, False), (4, False), (3, False), (4, True), (4, True), (3, True)]


def test_whole_numbers_are_encoded_too() -> None:
    torch.manual_seed(0)
    embedding, tokens = nn.EmbeddingBag(6, 3).double(), torch.tensor([[0, 1], [2, 2], [5, 0], [3, 1], [4, 4]])
    _loss(embedding(tokens)).backward()
    expected = _gradients(embedding)
    embedding.zero_grad()
    cached = CachedFeatures(embedding, tokens, 2, nullcontext)
    _loss(cached.features).backward()
    cached.backward()
    torch.testing.assert_close(_gradients(embedding), expected, rtol=0, atol=1e-13)


def test_gradients_come_to_those_that_are_there() -> None:
    tower, cached_rows = _tower(), _rows(6)
    for parameter in tower.parameters():
        parameter.grad = torch.ones_like(parameter)
    cached = CachedFeatures(tower, cached_rows, 2, nullcontext)
    _loss(cached.features).backward()
    cached.backward()
    found = [gradient - 1 for gradient in _gradients(tower)]
    tower.zero_grad()
    _loss(tower(cached_rows)).backward()
    torch.testing.assert_close(found, _gradients(tower), rtol=0, atol=1e-13)


def test_both_passes_draw_the_same_numbers_and_those_of_one_pass_by_parts() -> None:
    tower, rows = nn.Sequential(_tower(), nn.Dropout(0.5)).train(), _rows(8)
    torch.manual_seed(7)
    _loss(torch.cat([tower(part) for part in rows.chunk(4)])).backward()
    expected, after = _gradients(tower), torch.rand(2)
    tower.zero_grad()
    torch.manual_seed(7)
    cached = CachedFeatures(tower, rows, 4, nullcontext)
    _loss(cached.features).backward()
    cached.backward()
    torch.testing.assert_close(_gradients(tower), expected, rtol=0, atol=1e-13)
    assert torch.equal(torch.rand(2), after), "afterwards the state is that of a single pass"


def test_what_is_drawn_between_the_passes_is_drawn_once() -> None:
    dropout, rows = nn.Dropout(0.5).train(), torch.ones(6, 4, dtype=torch.float64, requires_grad=True)
    scale = torch.ones(4, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    cached = CachedFeatures(lambda part: dropout(part * scale), rows.detach(), 3, nullcontext)
    first = cached.features.detach().clone()
    between = torch.rand(2)
    cached.features.sum().backward()
    cached.backward()
    assert scale.grad is not None
    torch.testing.assert_close(scale.grad, first.sum(dim=0), rtol=0, atol=1e-13)  # d/dscale of what was kept
    torch.manual_seed(1)
    _ = [dropout(part) for part in torch.ones(6, 4, dtype=torch.float64).chunk(3)]
    assert torch.equal(torch.rand(2), between)


def test_both_passes_use_the_arithmetic_that_is_asked_for() -> None:
    seen: list[bool] = []

    def encode(rows: Tensor) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        features: Tensor = tower(rows)
        return features

    def autocast() -> AbstractContextManager[object]:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    tower = _tower().float()
    cached = CachedFeatures(encode, _rows(6).float(), 2, autocast)
    assert cached.features.dtype == torch.bfloat16
    cached.features.float().square().sum().backward()
    cached.backward()
    assert seen == [True] * 4
    assert [gradient.dtype for gradient in _gradients(tower)] == [torch.float32] * 4
    assert all(gradient.any() for gradient in _gradients(tower)), "weights cast without a graph are not used again"


@pytest.mark.parametrize("of_loss", [lambda features: None, lambda features: features.detach().sum()])
def test_a_loss_that_does_not_depend_on_the_features_is_refused(of_loss: Callable[[Tensor], object]) -> None:
    cached = CachedFeatures(_tower(), _rows(4), 2, nullcontext)
    of_loss(cached.features)
    with pytest.raises(ValueError, match="the loss must depend on the features"):
        cached.backward()
