"""The fused kernels without a GPU: right in Triton's interpreter, and compiled for sm_90 without spills.

The interpreter has to be chosen before Triton loads, so this file is also the program of the processes that do it.
The interpreter knows no races and no TF32; what it proves is the arithmetic, masks and all.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (pip install triton)"),
    pytest.mark.timeout(300),
]

# More rows than a block of queries and of keys, more columns than a block of outputs; none a multiple of a block.
NUM_ROWS, NUM_TEXTS, DIM = 150, 70, 150
TEMPERATURES = (0.1, 0.01)


def rows(num: int, seed: int) -> Tensor:
    return torch.randn(num, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
    case: tuple[Tensor, ...], temperature: float, dtype: torch.dtype, backend: str
) -> tuple[Tensor, ...]:
    from penstock.kernels.multipos_clip_loss import multipos_clip_loss
    from penstock.kernels.multipos_loss import multipos_loss

    of = torch.tensor(temperature, dtype=dtype, requires_grad=True)
    inputs = [tensor.to(dtype).requires_grad_() for tensor in case if tensor.is_floating_point()]
    labels = [tensor for tensor in case if not tensor.is_floating_point()]
    loss_of: Any = multipos_loss if len(inputs) == 1 else multipos_clip_loss
    loss = loss_of(*inputs, *labels, temperature=of, backend=backend)
    return (loss.detach(), *torch.autograd.grad(loss, [*inputs, of]))


def interpret(path: Path) -> None:
    torch.set_num_threads(1)
    found = {
        (name, temperature): loss_and_gradients(case, temperature, torch.float32, "triton")
        for name, case in cases().items()
        for temperature in TEMPERATURES
    }
    torch.save(found, path)


def compile_for_sm90(path: Path) -> None:
    import triton
    from triton.backends.compiler import GPUTarget

    from penstock.kernels import contrast_triton as ours

    figures = {}
    scalars = {"num_queries": "i32", "num_keys": "i32", "first": "i32", "dim": "i32"}
    for kernel in (ours.lse_kernel, ours.weighted_keys_kernel):
        blocks = {"BLOCK_M": ours.BLOCK_QUERIES, "BLOCK_N": ours.BLOCK_KEYS, "BLOCK_K": ours.BLOCK_DIM}
        constants = {"HAS_SELF": True, **blocks, "BLOCK_OUT": ours.MAX_BLOCK_OUT}
        constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
        signature = {
            name: "constexpr" if name in constants else scalars.get(name, "*fp32") for name in kernel.arg_names
        }
        # PyTorch's memory is aligned, and D = 256 a multiple of 16, as a launch would find.
        aligned = [(index,) for index, name in enumerate(kernel.arg_names) if name.endswith("ptr") or name == "dim"]
        source = triton.compiler.ASTSource(
            fn=kernel,
            signature=signature,
            constexprs=constants,
            attrs={index: [["tt.divisibility", 16]] for index in aligned},
        )
        with contextlib.redirect_stdout(io.StringIO()) as ptxas_log:
            compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": ours.NUM_WARPS})
        figures[kernel.__name__] = {
            "shared_bytes": compiled.metadata.shared,
            "has_cubin": bool(compiled.asm["cubin"]),
            "has_tensor_cores": "wgmma.mma_async" in compiled.asm["ptx"],
            "atomics": re.findall(r"\b(?:atom|red)\.\S+", compiled.asm["ptx"]),
            "ptxas_log": ptxas_log.getvalue(),
        }
    path.write_text(json.dumps(figures))


def run_program(what: str, path: Path, environment: dict[str, str]) -> None:
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    cache = {"TRITON_CACHE_DIR": str(path.parent / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, what, str(path)]
    done = subprocess.run(command, env=plain | cache | environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, float], tuple[Tensor, ...]]:
    path = tmp_path_factory.mktemp("interpreted") / "found.pt"
    run_program("interpret", path, {"TRITON_INTERPRET": "1"})
    found: dict[tuple[str, float], tuple[Tensor, ...]] = torch.load(path)
    return found


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    path = tmp_path_factory.mktemp("compiled") / "figures.json"
    run_program("compile", path, {"TRITON_DUMP_PTXAS_LOG": "1"})
    return dict(json.loads(path.read_text()))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", cases())
def test_equals_the_float64_reference_in_the_interpreter(
    interpreted: dict[tuple[str, float], tuple[Tensor, ...]], name: str, temperature: float
) -> None:
    loss, *gradients = interpreted[name, temperature]
    expected_loss, *expected = loss_and_gradients(cases()[name], temperature, torch.float64, "reference")
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5, abs=1e-6)
    *in_rows, in_temperature = zip(gradients, expected, strict=True)
    for gradient, right in in_rows:
        torch.testing.assert_close(gradient.double(), right, rtol=0, atol=max(5e-5 * right.abs().max().item(), 1e-6))
    # In 1 / temperature it is a difference of mean cosines, which float32 knows to some 1e-7.
    gradient, right = in_temperature
    torch.testing.assert_close(gradient.double(), right, rtol=5e-5, atol=5e-7 / temperature**2)


@pytest.mark.parametrize("kernel", ["lse_kernel", "weighted_keys_kernel"])
def test_compiles_for_sm90_without_spills_or_atomics(compiled: dict[str, dict[str, Any]], kernel: str) -> None:
    figures = compiled[kernel]
    assert figures["has_cubin"]
    assert figures["has_tensor_cores"]
    assert figures["atomics"] == []
    assert "0 bytes spill stores, 0 bytes spill loads" in figures["ptxas_log"]
    assert figures["shared_bytes"] <= 227 * 1024, "an H100's shared memory for one block"


def test_says_what_it_cannot_do() -> None:
    from penstock.kernels.multipos_loss import multipos_loss

    labels = torch.tensor([1, 1, 2])
    with pytest.raises(ValueError, match=r"must be of another dtype than torch\.float64"):
        multipos_loss(rows(3, 1), labels, temperature=0.1, backend="triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        with pytest.raises(ValueError, match=r"needs features on a CUDA device \(or TRITON_INTERPRET=1 .* got cpu"):
            multipos_loss(rows(3, 1).float(), labels, temperature=0.1, backend="triton")


if __name__ == "__main__":
    {"interpret": interpret, "compile": compile_for_sm90}[sys.argv[1]](Path(sys.argv[2]))
