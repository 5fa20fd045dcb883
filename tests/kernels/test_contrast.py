"""What both losses get from their common mechanism: precision, memory, the limits of differentiation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from penstock.kernels.backends import Backend
from penstock.kernels.contrast import contrast
from penstock.kernels.contrast_chunked import ChunkedKernels
from penstock.kernels.contrast_inputs import Rows
from penstock.kernels.multipos_clip_loss import multipos_clip_loss
from penstock.kernels.multipos_loss import multipos_loss
from tests.kernels.peak_memory import peak_bytes

torch.set_num_threads(1)

BACKENDS: tuple[Backend, ...] = ("reference", "chunked")


def draw(num_rows: int, dim: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def exact_gradients(features: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, float]:
    """In the features and in the temperature, of mean_i H(p_i, q_i) in float64, 512 rows after the other.

    dH / ds_ij = q_ij - p_ij where every row has a positive; F / |F| turns dL/du into (dL/du - <dL/du, u> u) / |F|.
    """
    features = features.detach().double()
    norms = features.norm(dim=1, keepdim=True)
    unit = features / norms
    in_unit, in_temperature = torch.zeros_like(unit), 0.0
    for rows in torch.arange(len(unit)).split(512):
        cosines, itself = unit[rows] @ unit.T, rows[:, None] == torch.arange(len(unit))
        matches = ((labels[rows, None] == labels) & ~itself).double()
        q = (cosines / temperature).masked_fill(itself, -torch.inf).softmax(dim=1)
        in_similarities = (q - matches / matches.sum(dim=1, keepdim=True)) / len(unit)
        in_unit[rows] += in_similarities @ unit / temperature
        in_unit += in_similarities.T @ unit[rows] / temperature
        in_temperature -= (in_similarities * cosines).sum().item() / temperature**2
    return (in_unit - (in_unit * unit).sum(dim=1, keepdim=True) * unit) / norms, in_temperature


@pytest.mark.parametrize("num_rows", [1000, 4096])
def test_float32_does_not_bias_the_gradient_in_the_temperature(num_rows: int) -> None:
    # Rows so alike that all have about the same log-sum: a rounding that they share would not average out.
    features, labels = 1 + 0.05 * draw(num_rows), torch.arange(num_rows) // 4
    temperature = torch.tensor(0.01, requires_grad=True)
    loss = multipos_loss(features, labels, temperature=temperature)
    _, expected = exact_gradients(features, labels, temperature.item())
    assert torch.autograd.grad(loss, temperature)[0].item() == pytest.approx(expected, abs=3e-3)


def test_a_label_of_thousands_keeps_its_digits_in_float32() -> None:
    # Its rows' sum, 4096 times as large as a row, is all but cancelled by the softmax's.
    features, labels = (1 + 0.05 * draw(4096)).requires_grad_(), torch.zeros(4096, dtype=torch.int64)
    (gradient,) = torch.autograd.grad(multipos_loss(features, labels, temperature=0.01), features)
    expected, _ = exact_gradients(features, labels, 0.01)
    assert (gradient.double() - expected).norm() < 1.2e-4 * expected.norm()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1e25, 1e19, 1e-10])
def test_the_length_of_a_row_does_not_matter(scale: float, backend: Backend) -> None:
    features, scales = draw(9).requires_grad_(), torch.tensor([1.0, scale, 1.0] * 3)[:, None]
    scaled, labels = (features.detach() * scales).requires_grad_(), torch.arange(9) // 2
    losses = [multipos_loss(each, labels, temperature=0.1, backend=backend) for each in (features, scaled)]
    torch.testing.assert_close(*losses)
    gradient, of_scaled = (
        torch.autograd.grad(loss, each)[0] for loss, each in zip(losses, (features, scaled), strict=True)
    )
    torch.testing.assert_close(of_scaled * scales, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_of_zeros_is_at_right_angles_to_all(backend: Backend) -> None:
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    loss = multipos_loss(features, torch.tensor([3, 5, 5]), temperature=1.0, backend=backend)
    # The two rows lose log(e + 1) - 1 each, the third nothing.
    assert loss.item() == pytest.approx(2 / 3 * 0.3132616875, abs=1e-6)


def test_auto_is_chunked() -> None:
    features, labels = draw(50, dim=16), torch.arange(50) // 3
    losses = [multipos_loss(features, labels, temperature=0.1, backend=backend) for backend in ("auto", "chunked")]
    assert torch.equal(*losses)


@pytest.mark.parametrize("where", ["forward", "backward", "both"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_changes_nothing(backend: Backend, where: str) -> None:
    # A learnable temperature: a number would hide what autocast makes of its product with the rows.
    found = []
    for enabled in (False, True):
        features, texts = draw(40, dim=16).requires_grad_(), draw(10, dim=16, seed=1).requires_grad_()
        temperature = torch.tensor(0.1, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled and where != "backward"):
            losses = [
                multipos_loss(features, torch.arange(40) % 9, temperature=temperature, backend=backend),
                multipos_clip_loss(
                    *(features, texts, torch.arange(40) % 10, torch.arange(10)),
                    temperature=temperature,
                    backend=backend,
                ),
            ]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled and where != "forward"):
            gradients = torch.autograd.grad(losses, (features, texts, temperature))
        found.append([*losses, *gradients])
    for with_autocast, without in zip(*found, strict=True):
        assert torch.equal(with_autocast, without)


def test_an_implementation_is_spared_autocast() -> None:
    states = []

    class Spy(ChunkedKernels):
        def lse(self, *args: Any, **kwargs: Any) -> Tensor:
            states.append(torch.is_autocast_enabled("cpu"))
            return super().lse(*args, **kwargs)

        def weighted_keys(self, *args: Any, **kwargs: Any) -> Tensor:
            states.append(torch.is_autocast_enabled("cpu"))
            return super().weighted_keys(*args, **kwargs)

    features = draw(6).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        contrast([Rows("features", features, "labels", torch.arange(6) // 2)], 0.1, None, Spy()).backward()
    assert states == [False, False]


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_memory_is_linear_in_rows(kind: str) -> None:
    def loss(num_rows: int) -> Callable[[], None]:
        features, labels = draw(num_rows).requires_grad_(), torch.arange(num_rows) // 4
        texts = draw(num_rows, seed=1).requires_grad_()
        how = {"temperature": 0.1, "chunk_size": 64}
        if kind == "images":
            return lambda: multipos_loss(features, labels, **how).backward()  # type: ignore[arg-type]
        return lambda: multipos_clip_loss(features, texts, labels, labels, **how).backward()  # type: ignore[arg-type]

    # 8 columns and tiles of 64: what grows with N is far below one column of tiles, not to speak of N x N.
    peaks = [peak_bytes(loss(num_rows)) for num_rows in (1024, 2048, 4096)]
    assert peaks[2] < 4096 * 64 * 4 * 4, "an N x N float32 matrix has 16 times as much"
    assert peaks[2] - peaks[1] < 2.2 * (peaks[1] - peaks[0]), "quadratic growth would quadruple"


def test_a_graph_of_the_gradient_is_refused_and_the_reference_makes_it() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])

    def images(backend: Backend, features: Tensor) -> Tensor:
        return multipos_loss(features, labels, temperature=0.2, backend=backend)

    def texts(backend: Backend, features: Tensor) -> Tensor:
        return multipos_clip_loss(features, features.flip(1), labels, labels, temperature=0.2, backend=backend)

    features = draw(6, dim=4, dtype=torch.float64).requires_grad_()
    for loss in (images, texts):
        with pytest.raises(RuntimeError, match="once differentiable; use backend='reference'"):
            torch.autograd.grad(loss("chunked", features), features, create_graph=True)
        assert torch.autograd.gradgradcheck(partial(loss, "reference"), features)


def test_a_kept_graph_gives_the_same_gradient_twice() -> None:
    features = draw(6).requires_grad_()
    loss = multipos_loss(features, torch.arange(6) // 2, temperature=0.2)
    first, second = (torch.autograd.grad(loss, features, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
