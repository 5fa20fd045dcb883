"""The multi-positive loss against the paper's equations, in one process. Precision: test_contrast.py."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.kernels.backends import Backend
from penstock.kernels.multipos_loss import multipos_loss

torch.set_num_threads(1)

LABELS = {
    "pairs": [3, 3, 8, 8, 1, 1],
    "ragged": [5, 5, 5, 5, 2, 2, 9],
    "singletons and one pair": [1, 2, 3, 4, 4],
    "all singletons": [1, 2, 3],
    "one label": [7, 7, 7, 7],
    "interleaved, negative and huge": [-(2**63), 2**63 - 1, 0, -(2**63), 2**63 - 1, 0, 0],
    "one row": [4],
}
BACKENDS: tuple[Backend, ...] = ("reference", "chunked")


def paper_loss(features: Tensor, labels: list[int], temperature: float) -> Tensor:
    """Eq. 1-3 of arXiv 2306.00984 by anchor a: q = softmax(a.b / tau), p uniform over matches, H(p, q)."""
    unit = features / features.norm(dim=1, keepdim=True)
    losses = [unit.sum() * 0]
    for anchor in range(len(labels)):
        others = [j for j in range(len(labels)) if j != anchor]
        matches = [float(labels[j] == labels[anchor]) for j in others]
        if sum(matches):
            p = torch.tensor(matches, dtype=features.dtype) / sum(matches)
            q = torch.softmax(unit[others] @ unit[anchor] / temperature, dim=0)
            losses.append(-(p * q.log()).sum())
    return torch.stack(losses).sum() / len(labels)


def public_loss(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The arithmetic of the published code, but with the labels of this batch: masks of ones and zeros, -1e9."""
    unit = features / features.norm(dim=1, keepdim=True)
    not_itself = 1 - torch.eye(len(labels), dtype=features.dtype)
    matches = (labels[:, None] == labels[None, :]).to(features.dtype) * not_itself
    target = matches / matches.sum(dim=1, keepdim=True).clamp(min=1)
    logits = unit @ unit.T / temperature - (1 - not_itself) * 1e9
    logits = logits - logits.amax(dim=1, keepdim=True).detach()
    return -(target * (logits - logits.exp().sum(dim=1, keepdim=True).log())).sum(dim=1).mean()


def draw(num_rows: int, dim: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_equals_the_papers_formula_while_labels_change(temperature: float, backend: Backend) -> None:
    # One process, batches of the same and of other sizes in turn: nothing may be remembered from the last
    # batch.
    for seed, labels in enumerate(LABELS.values()):
        ours, paper = (draw(len(labels), seed=seed).requires_grad_() for _ in range(2))
        loss = multipos_loss(ours, torch.tensor(labels), temperature=temperature, backend=backend, chunk_size=3)
        expected = paper_loss(paper, labels, temperature)
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            *torch.autograd.grad(loss, ours), *torch.autograd.grad(expected, paper), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_published_codes_arithmetic_while_labels_change(backend: Backend) -> None:
    # Batches of one size, so that masks remembered by size, as in that code, would show.
    generator = torch.Generator().manual_seed(5)
    for seed in range(5):
        labels = torch.randint(0, 7, (24,), generator=generator)
        ours, public = (draw(24, seed=seed).requires_grad_() for _ in range(2))
        loss = multipos_loss(ours, labels, temperature=0.1, backend=backend, chunk_size=5)
        expected = public_loss(public, labels, 0.1)
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            *torch.autograd.grad(loss, ours), *torch.autograd.grad(expected, public), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_in_features_and_temperature(labels: list[int], backend: Backend) -> None:
    features = draw(len(labels)).requires_grad_()
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(features: Tensor, temperature: Tensor) -> Tensor:
        return multipos_loss(features, torch.tensor(labels), temperature=temperature, backend=backend, chunk_size=2)

    assert torch.autograd.gradcheck(loss, (features, temperature))


def test_two_orthogonal_pairs_by_hand() -> None:
    # Every row sees its twin at cosine 1 and two rows at cosine 0: l = log(e^(1/t) + 2) - 1/t.
    features = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 5.0]], dtype=torch.float64)
    loss = multipos_loss(features, torch.tensor([6, 6, 4, 4]), temperature=0.5)
    assert loss.item() == pytest.approx(math.log(math.exp(2) + 2) - 2, abs=1e-14)


def test_singleton_loses_nothing_but_repels() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2]], dtype=torch.float64, requires_grad=True)
    alone = multipos_loss(features[2:], torch.tensor([9]), temperature=0.1)
    pair = multipos_loss(features[:2], torch.tensor([1, 1]), temperature=0.1)
    both = multipos_loss(features, torch.tensor([1, 1, 9]), temperature=0.1)
    assert alone.item() == 0
    assert pair.item() == pytest.approx(0, abs=1e-12)
    assert both.item() > 0.1
    assert torch.autograd.grad(both, features)[0][2].norm() > 0


@pytest.mark.parametrize("bit", [0, 24, 31, 32, 53, 62])
@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_that_differ_in_one_bit_are_negatives(bit: int, backend: Backend) -> None:
    features, base = draw(4), 0x0123456789ABCDEF
    labels = torch.tensor([base, base, base ^ (1 << bit), base ^ (1 << bit)])
    loss = multipos_loss(features, labels, temperature=0.1, backend=backend)
    torch.testing.assert_close(loss, paper_loss(features, [0, 0, 1, 1], 0.1), rtol=0, atol=1e-12)


def test_order_of_rows_and_size_of_chunks_change_nothing() -> None:
    features, labels = draw(37, seed=3), torch.arange(37) // 3 % 7
    order = torch.randperm(37, generator=torch.Generator().manual_seed(1))
    plain = multipos_loss(features, labels, temperature=0.1)
    for chunk_size in (1, 5, 36, 37, 1000):
        shuffled = multipos_loss(features[order], labels[order], temperature=0.1, chunk_size=chunk_size)
        torch.testing.assert_close(shuffled, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_low_precision_features_are_summed_in_float32(dtype: torch.dtype, tolerance: float, temperature: float) -> None:
    features, labels = draw(300, dim=64, dtype=dtype).requires_grad_(), torch.arange(300) % 71
    exact = features.detach().double().requires_grad_()
    loss = multipos_loss(features, labels, temperature=temperature)
    expected = multipos_loss(exact, labels, temperature=temperature, backend="reference")
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=2e-6)
    (gradient,), (expected_gradient,) = (
        torch.autograd.grad(loss, features),
        torch.autograd.grad(expected, exact),
    )
    assert gradient.dtype == dtype
    largest = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=0, atol=tolerance * largest)


def test_extreme_cosines_at_low_temperature_stay_finite() -> None:
    # 1 / temperature = 100: e^100 overflows float32.
    features = torch.cat([torch.ones(4, 8), -torch.ones(4, 8)]).requires_grad_()
    loss = multipos_loss(features, torch.tensor([0, 1, 0, 1, 2, 3, 2, 3]), temperature=0.01)
    assert loss.item() == pytest.approx(math.log(3), rel=1e-5)
    assert torch.autograd.grad(loss, features)[0].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_views_of_each_image_give_ntxent(backend: Backend) -> None:
    # SimCLR's NT-Xent (arXiv 2002.05709, eq. 1): cross-entropy with the other view as the class.
    features, temperature = draw(12, dim=6).requires_grad_(), torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    unit = F.normalize(features, dim=1)
    logits = (unit @ unit.T / temperature).masked_fill(torch.eye(12, dtype=torch.bool), -torch.inf)
    expected = F.cross_entropy(logits, torch.arange(12) ^ 1)
    loss = multipos_loss(features, torch.arange(12) // 2, temperature=temperature, backend=backend)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    inputs = (features, temperature)
    for found, right in zip(*(torch.autograd.grad(of, inputs) for of in (loss, expected)), strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-12)
