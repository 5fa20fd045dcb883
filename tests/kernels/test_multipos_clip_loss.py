"""The image-text loss against its definition and CLIP's, in one process. Several ranks: test_ranks.py."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.kernels.backends import Backend
from penstock.kernels.multipos_clip_loss import multipos_clip_loss

torch.set_num_threads(1)

BACKENDS: tuple[Backend, ...] = ("reference", "chunked")
LABELS = {
    "several images a caption": ([3, 3, 3, 8, 8, 8], [8, 3]),
    "ragged": ([5, 5, 2, 9, 5], [5, 9, 2]),
    "rows without positives on both sides": ([5, 5, 6, 7], [5, 7, 1, 2]),
    "a caption that occurs twice": ([5, 5, 6], [5, 6, 5]),
    "nothing in common": ([1, 2], [3, 4, 5]),
    "one label": ([4, 4, 4], [4, 4]),
    "one image, one text": ([7], [7]),
    "negative and huge": ([-(2**63), 2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]),
}


def one_way(queries: Tensor, keys: Tensor, query_labels: list[int], key_labels: list[int]) -> Tensor:
    """Mean over queries of H(p, q): q = softmax over keys, p uniform over matches; 0 without a match."""
    losses = []
    for i, label in enumerate(query_labels):
        matches = torch.tensor([float(label == other) for other in key_labels], dtype=queries.dtype)
        q = torch.softmax(keys @ queries[i], dim=0)
        losses.append(-(matches / matches.sum().clamp(min=1) * q.log()).sum())
    return torch.stack(losses).mean()


def defined_loss(images: Tensor, texts: Tensor, labels: tuple[list[int], list[int]], temperature: float) -> Tensor:
    images, texts = images / images.norm(dim=1, keepdim=True), texts / texts.norm(dim=1, keepdim=True)
    to_text = one_way(images / temperature, texts, *labels)
    return (to_text + one_way(texts / temperature, images, *labels[::-1])) / 2


def draw(num_rows: int, seed: int, dim: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def ours(images: Tensor, texts: Tensor, labels: tuple[list[int], list[int]], **how: object) -> Tensor:
    return multipos_clip_loss(images, texts, *map(torch.tensor, labels), **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_its_definition_while_labels_change(backend: Backend) -> None:
    for labels in LABELS.values():
        images, texts = draw(len(labels[0]), 1).requires_grad_(), draw(len(labels[1]), 2).requires_grad_()
        loss = ours(images, texts, labels, temperature=0.1, backend=backend, chunk_size=2)
        expected = defined_loss(images, texts, labels, 0.1)
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
        for found, right in zip(*(torch.autograd.grad(of, (images, texts)) for of in (loss, expected)), strict=True):
            torch.testing.assert_close(found, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_in_both_features_and_temperature(labels: tuple[list[int], list[int]], backend: Backend) -> None:
    images, texts = draw(len(labels[0]), 1).requires_grad_(), draw(len(labels[1]), 2).requires_grad_()
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(images: Tensor, texts: Tensor, temperature: Tensor) -> Tensor:
        return ours(images, texts, labels, temperature=temperature, backend=backend, chunk_size=2)

    assert torch.autograd.gradcheck(loss, (images, texts, temperature))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_image_a_caption_gives_clip(backend: Backend) -> None:
    # arXiv 2103.00020, figure 3: logits times exp(t), cross-entropy to arange(n) along both axes, halved.
    images, texts, log_scale = draw(9, 1), draw(9, 2), torch.tensor(math.log(1 / 0.07), dtype=torch.float64)
    for tensor in (images, texts, log_scale):
        tensor.requires_grad_()
    logits = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T * log_scale.exp()
    expected = (F.cross_entropy(logits, torch.arange(9)) + F.cross_entropy(logits.T, torch.arange(9))) / 2
    labels = torch.arange(9) * 2**40 - 7
    loss = multipos_clip_loss(images, texts, labels, labels, temperature=(-log_scale).exp(), backend=backend)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    inputs = (images, texts, log_scale)
    for found, right in zip(*(torch.autograd.grad(of, inputs) for of in (loss, expected)), strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-12)


def test_two_captions_of_two_images_by_hand() -> None:
    # Images lie on their captions' axes: to text log(e^2 + 1) - 2; to image, two of four at 2, log(2 e^2 + 2) - 2.
    images = torch.tensor([[1.0, 0.0], [4.0, 0.0], [0.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
    loss = ours(images, torch.eye(2, dtype=torch.float64), ([5, 5, 6, 6], [5, 6]), temperature=0.5)
    to_text = math.log(math.exp(2) + 1) - 2
    assert loss.item() == pytest.approx((2 * to_text + math.log(2)) / 2, abs=1e-14)


@pytest.mark.parametrize("bit", [0, 24, 31, 32, 53, 62])
def test_labels_that_differ_in_one_bit_do_not_match(bit: int) -> None:
    base = 0x0123456789ABCDEF
    images, texts, labels = draw(4, 1), draw(2, 2), [base, base ^ (1 << bit)]
    loss = ours(images, texts, (labels * 2, labels), temperature=0.1)
    torch.testing.assert_close(loss, defined_loss(images, texts, ([0, 1, 0, 1], [0, 1]), 0.1), rtol=0, atol=1e-12)


def test_order_of_rows_and_size_of_chunks_change_nothing() -> None:
    images, texts, labels = draw(37, 1), draw(11, 2), torch.arange(37) % 11
    order, text_order = (torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (37, 11))
    plain = multipos_clip_loss(images, texts, labels, torch.arange(11), temperature=0.1)
    for chunk_size in (1, 5, 11, 37, 1000):
        how = {"temperature": 0.1, "chunk_size": chunk_size}
        shuffled = multipos_clip_loss(images[order], texts[text_order], labels[order], text_order, **how)  # type: ignore[arg-type]
        torch.testing.assert_close(shuffled, plain, rtol=0, atol=1e-12)


def test_lowest_temperature_in_float32() -> None:
    # CLIP's logit scale goes up to 100: images that lie on texts of others and against their own overflow e^s by far.
    texts = draw(20, 1, dim=64)
    images = torch.cat([texts, -texts]) + 0.02 * draw(40, 2, dim=64)
    labels = ([(i + 1) % 20 for i in range(20)] + list(range(20)), list(range(20)))
    exact = [tensor.clone().requires_grad_() for tensor in (images, texts)]
    rounded = [tensor.float().requires_grad_() for tensor in (images, texts)]
    expected = defined_loss(*exact, labels, 0.01)
    loss = ours(*rounded, labels, temperature=0.01)
    assert loss.dtype == torch.float32
    assert expected > 80, "the case is extreme"
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for found, right in zip(torch.autograd.grad(loss, rounded), torch.autograd.grad(expected, exact), strict=True):
        torch.testing.assert_close(found.double(), right, rtol=0, atol=2e-5 * right.abs().max().item())
