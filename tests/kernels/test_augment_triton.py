"""The augmentation's kernels without a GPU: right in Triton's interpreter, compiled for sm_90 without a spill."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.kernels.augment import AugmentRecipe, augment, draw_params

triton = pytest.importorskip("triton", reason="triton is not installed")

ROOT = Path(__file__).resolve().parents[2]
NUM_CASES = 10 + 8 + 2
POINTERS = {
    **dict.fromkeys(("positions_ptr", "samples_ptr", "slots_ptr", "targets_ptr"), "*i64"),
    **dict.fromkeys(("rows_ptr", "columns_ptr", "order_ptr", "grayscale_ptr", "reach_ptr"), "*i32"),
    **dict.fromkeys(("row_taps_ptr", "column_taps_ptr", "factors_ptr", "taps_ptr", "source_ptr"), "*fp32"),
    **dict.fromkeys(("sums_ptr", "means_ptr", "unblurred_ptr"), "*fp32"),
    **dict.fromkeys(("output_ptr", "target_ptr"), "*bf16"),
}
WHOLE_NUMBERS = ("height", "width", "size", "num_tiles", "num_pixels")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_interpreted_kernels_equal_the_reference_and_torchvision() -> None:
    command = [sys.executable, "-m", "tests.kernels.augment_interpreted"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout)
    assert len(differences) == NUM_CASES
    assert {name: value for name, value in differences.items() if not value <= 2e-5} == {}


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="interpreted kernels cannot be compiled")
@pytest.mark.parametrize("source", ["*u8", "*fp32"], ids=["bytes", "downsampled"])
@pytest.mark.parametrize("taps", [2, 3, 5, 10, 32])
@pytest.mark.parametrize(
    ("name", "output"), [("mean_kernel", "*fp32"), ("view_kernel", "*fp32"), ("view_kernel", "*bf16")]
)
def test_resampling_compiles_for_sm_90_without_spills(
    name: str, output: str, taps: int, source: str, tmp_path: Path
) -> None:
    """32 taps are a resize to a sixteenth, such as 512² to 32²; the compiler's work must not grow with the taps."""
    constants = {"ROW_TAPS": taps, "COLUMN_TAPS": taps}
    usage = resource_usage(name, constants, {"images_ptr": source, "output_ptr": output}, tmp_path)
    assert usage["STACK"] == 0
    assert usage["REG"] <= 64, "more leave a multiprocessor fewer than half of its threads"


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="interpreted kernels cannot be compiled")
@pytest.mark.parametrize("along_rows", [True, False])
@pytest.mark.parametrize("target", ["*fp32", "*bf16"])
def test_the_blur_compiles_for_sm_90_without_spills(target: str, along_rows: bool, tmp_path: Path) -> None:
    constants = {"TAPS": 23, "ALONG_ROWS": along_rows}
    assert resource_usage("blur_kernel", constants, {"target_ptr": target}, tmp_path)["STACK"] == 0


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="interpreted kernels cannot be compiled")
@pytest.mark.parametrize("tiles", [1, 256, 4096], ids=["16²", "224²", "1024²"])
def test_the_mean_compiles_for_sm_90_without_spills(tiles: int, tmp_path: Path) -> None:
    assert resource_usage("total_kernel", {"TILES": tiles}, {}, tmp_path)["STACK"] == 0


def resource_usage(name: str, constants: dict[str, Any], pointers: dict[str, str], folder: Path) -> dict[str, int]:
    """What the machine code for sm_90 takes, by NVIDIA's cuobjdump: a spilled register is on the stack."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from penstock.kernels import augment_kernels
    from penstock.kernels.augment_triton import BLOCK

    kernel = getattr(augment_kernels, name)
    constants = constants | ({"BLOCK": BLOCK} if "BLOCK" in kernel.arg_names else {})
    types = {**POINTERS, **dict.fromkeys(WHOLE_NUMBERS, "i32"), **dict.fromkeys(constants, "constexpr")}
    signature = {argument: (types | pointers).get(argument, "fp32") for argument in kernel.arg_names}
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(folder)  # a kernel compiled before would prove nothing
        compiled = triton.compile(ASTSource(kernel, signature, constexprs=constants), target=GPUTarget("cuda", 90, 32))
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    text = subprocess.run([tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True).stdout
    return {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}


def test_every_kernel_is_launched_on_the_images_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it Triton launches on the current device, and reads another card's memory there."""
    from penstock.kernels import augment_triton

    current: list[torch.Tensor] = []
    launched: list[str] = []

    @contextmanager
    def device_of(tensor: torch.Tensor) -> Iterator[None]:
        current.append(tensor)
        yield
        current.pop()

    class Kernel:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            assert [tensor is images for tensor in current] == [True]
            return lambda *_, **__: launched.append(self._name)

    names = ("mean_kernel", "total_kernel", "view_kernel", "blur_kernel")
    for name in names:
        monkeypatch.setattr(augment_triton, name, Kernel(name))
    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    images = torch.zeros(8, 32, 32, 3, dtype=torch.uint8)
    augment_triton.augment_triton(images, draw_params(AugmentRecipe.strong(16), 0, torch.arange(8), 0, 0, 32, 32))
    assert set(launched) == set(names)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_works_on_a_device_that_is_not_the_current_one() -> None:
    images = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8)
    params = draw_params(AugmentRecipe.strong(48), 5, torch.arange(8), 0, 0, 64, 64)
    views = augment(images.to("cuda:1"), params, backend="triton")
    torch.testing.assert_close(views.cpu(), augment(images, params, backend="reference"), rtol=0, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_sample_has_the_same_bits_alone_and_among_others_on_the_gpu() -> None:
    images = torch.randint(0, 256, (16, 256, 256, 3), dtype=torch.uint8).cuda()
    params = draw_params(AugmentRecipe(downsample_probability=0.2), 5, torch.arange(16), 0, 0, 256, 256)
    whole = augment(images, params, backend="triton")
    for sample in range(16):
        one = slice(sample, sample + 1)
        assert torch.equal(augment(images[one], params.of(one), backend="triton"), whole[one])


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter takes images on the host")
def test_refuses_images_on_the_host() -> None:
    params = draw_params(AugmentRecipe.weak(8), 0, torch.arange(1), 0, 0, 8, 8)
    with pytest.raises(ValueError, match=r"needs images on a CUDA device .*, got cpu"):
        augment(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), params, backend="triton")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_reference_on_the_gpu_twice_to_the_bit(dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (64, 256, 256, 3), dtype=torch.uint8)
    recipe = AugmentRecipe(downsample_probability=0.2)
    params = draw_params(recipe, 5, torch.arange(64), 0, 0, 256, 256)
    first, second = (augment(images.cuda(), params, dtype=dtype, backend="triton") for _ in range(2))
    assert torch.equal(first, second)
    expected = augment(images, params, backend="reference")
    # Half a unit in the last place of a bfloat16 below 4 is 2**-7.
    tolerance = 2e-5 if dtype == torch.float32 else 2**-7 + 2e-5
    torch.testing.assert_close(first.float().cpu(), expected, rtol=0, atol=tolerance)
