"""The fused kernels against the reference: in Triton's interpreter without a GPU, and on a GPU where there is one.

The interpreter has to be chosen before Triton loads, so this file is also the program of the process that does it.
The interpreter knows no races and no TF32; what it proves is the arithmetic, masks and all.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.kernels.backends import Backend
from penstock.kernels.multipos_clip_loss import multipos_clip_loss
from penstock.kernels.multipos_loss import multipos_loss

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (pip install triton)"),
    pytest.mark.timeout(300),
]

# More rows than a block of queries and of keys, more columns than a block of outputs; none a multiple of a block.
NUM_ROWS, NUM_TEXTS, DIM = 150, 70, 150
TEMPERATURES = (0.1, 0.01)
PAIRS = {
    "all rows": (0, 90),
    "a rank's rows": (37, 40),
    "the last row": (89, 1),
    "no row": (45, 0),
    "texts": (None, 33),
}
"""Of 90 keys: the first query among them, and how many queries; None where they are others."""


def rows(num: int, seed: int, dim: int = DIM) -> Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cases() -> dict[str, tuple[Tensor, ...]]:
    """Features and labels: one kind of rows or two."""
    ragged = torch.randint(0, 60, (NUM_ROWS,), generator=torch.Generator().manual_seed(0)) + 2**61
    # Rows that all but coincide, at the lowest temperature: exp(100) overflows float32.
    alike = rows(NUM_ROWS, 1) * 0.05 + 1
    return {
        "images": (rows(NUM_ROWS, 1), ragged),
        "images alike": (alike, ragged),
        "one row": (rows(1, 1), ragged[:1]),
        "one label": (rows(5, 1), ragged[:1].expand(5)),
        "texts": (rows(NUM_ROWS, 1), rows(NUM_TEXTS, 2), ragged, torch.arange(NUM_TEXTS) + 2**61),
    }


def loss_and_gradients(
    case: tuple[Tensor, ...], temperature: float, dtype: torch.dtype, backend: Backend, device: str = "cpu"
) -> tuple[Tensor, ...]:
    of = torch.tensor(temperature, dtype=dtype, device=device, requires_grad=True)
    inputs = [tensor.to(device, dtype).requires_grad_() for tensor in case if tensor.is_floating_point()]
    labels = [tensor.to(device) for tensor in case if not tensor.is_floating_point()]
    loss_of: Any = multipos_loss if len(inputs) == 1 else multipos_clip_loss
    loss = loss_of(*inputs, *labels, temperature=of, backend=backend)
    return tuple(each.cpu() for each in (loss.detach(), *torch.autograd.grad(loss, [*inputs, of])))


def pairs(name: str) -> tuple[dict[str, Tensor], int | None]:
    """What `PairKernels` take, in float64: unit rows, and shifts near the log-sums, one of them infinite."""
    first, num = PAIRS[name]
    keys = F.normalize(rows(90, 3, dim=20), dim=1)
    key_shifts = 8 + rows(90, 4, dim=1)[:, 0]
    key_shifts[50] = torch.inf
    if first is None:
        queries, query_shifts = F.normalize(rows(num, 5, dim=20), dim=1), 8 + rows(num, 6, dim=1)[:, 0]
    else:
        queries, query_shifts = keys[first : first + num], key_shifts[first : first + num]
    return {"queries": queries, "keys": keys, "query_shifts": query_shifts, "key_shifts": key_shifts}, first


def sums_over_pairs(name: str, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Both sums by the kernels, in float32."""
    from penstock.kernels.contrast_triton import TritonKernels

    given, first = pairs(name)
    given = {key: value.to(device, torch.float32) for key, value in given.items()}
    inverse = torch.tensor(10.0, device=device)
    lse = TritonKernels().lse(given["queries"], given["keys"], inverse, first)
    return lse.cpu(), TritonKernels().weighted_keys(**given, inverse_temperature=inverse, first=first).cpu()


def interpret(path: Path) -> None:
    torch.set_num_threads(1)
    found: dict[Any, Any] = {
        (name, temperature): loss_and_gradients(case, temperature, torch.float32, "triton")
        for name, case in cases().items()
        for temperature in TEMPERATURES
    }
    found |= {name: sums_over_pairs(name) for name in PAIRS}
    images, texts, *labels = cases()["texts"]
    found["mixed"] = multipos_clip_loss(images, texts.float(), *labels, temperature=0.1, backend="triton")
    torch.save(found, path)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    path = tmp_path_factory.mktemp("interpreted") / "found.pt"
    environment = {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(path.parent / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(path)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return dict(torch.load(path))


def assert_equals_the_reference(found: tuple[Tensor, ...], name: str, temperature: float) -> None:
    loss, *gradients = found
    expected_loss, *expected = loss_and_gradients(cases()[name], temperature, torch.float64, "reference")
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5, abs=1e-6)
    *in_rows, in_temperature = zip(gradients, expected, strict=True)
    for gradient, right in in_rows:
        torch.testing.assert_close(gradient.double(), right, rtol=0, atol=max(5e-5 * right.abs().max().item(), 1e-6))
    # In 1 / temperature it is a difference of mean cosines. Float32 rounds those to some 1e-7, and the probabilities in
    # the one mean to 1e-7 / temperature, of which rows that are alike share a part.
    gradient, right = in_temperature
    torch.testing.assert_close(gradient.double(), right, rtol=5e-5, atol=5e-7 / temperature**2)


def assert_equals_the_formulas(found: tuple[Tensor, Tensor], name: str) -> None:
    given, first = pairs(name)
    similarities = 10 * given["queries"] @ given["keys"].T
    if first is not None:
        num = torch.arange(len(similarities))
        similarities[num, first + num] = -torch.inf
    weights = (similarities - given["query_shifts"][:, None]).exp() + (similarities - given["key_shifts"]).exp()
    for sums, right in zip(found, (similarities.exp().sum(dim=1).log(), weights @ given["keys"]), strict=True):
        torch.testing.assert_close(sums.double(), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", cases())
def test_equals_the_float64_reference_in_the_interpreter(
    interpreted: dict[Any, Any], name: str, temperature: float
) -> None:
    assert_equals_the_reference(interpreted[name, temperature], name, temperature)


@pytest.mark.parametrize("name", PAIRS)
def test_sums_over_pairs_of_any_rank_in_the_interpreter(interpreted: dict[Any, Any], name: str) -> None:
    assert_equals_the_formulas(interpreted[name], name)


def test_mixed_precisions_are_summed_in_float32(interpreted: dict[Any, Any]) -> None:
    expected, *_ = loss_and_gradients(cases()["texts"], 0.1, torch.float64, "reference")
    assert interpreted["mixed"].dtype == torch.float32
    assert interpreted["mixed"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter takes features on the host")
def test_says_what_it_cannot_do() -> None:
    features, labels = rows(3, 1), torch.tensor([1, 1, 2])
    with pytest.raises(ValueError, match=r": features must be of another dtype than torch\.float64$"):
        multipos_loss(features, labels, temperature=0.1, backend="triton")
    with pytest.raises(ValueError, match=r": image_features or text_features must be of another dtype"):
        multipos_clip_loss(features, features, labels, labels, temperature=0.1, backend="triton")
    with pytest.raises(ValueError, match=r"needs features on a CUDA device \(or TRITON_INTERPRET=1 .* got cpu"):
        multipos_loss(features.float(), labels, temperature=0.1, backend="triton")
    with pytest.raises(ValueError, match=r"needs image_features on a CUDA device"):
        multipos_clip_loss(features, features.float(), labels, labels, temperature=0.1, backend="triton")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("backend", ["chunked", "triton"])
def test_equals_the_float64_reference_on_the_gpu_twice_to_the_bit(
    backend: Backend, name: str, temperature: float
) -> None:
    runs = [loss_and_gradients(cases()[name], temperature, torch.float32, backend, "cuda") for _ in range(2)]
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)
    assert_equals_the_reference(runs[0], name, temperature)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", PAIRS)
def test_sums_over_pairs_of_any_rank_on_the_gpu(name: str) -> None:
    assert_equals_the_formulas(sums_over_pairs(name, "cuda"), name)


if __name__ == "__main__":
    interpret(Path(sys.argv[1]))
