"""Which bits of a view are certain: under autocast, at any matmul precision, among neighbours, with more threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.kernels import augment as augment_module
from penstock.kernels.augment import AugmentParams, AugmentRecipe, augment, draw_params, prepare
from penstock.kernels.augment_chunked import augment_chunked, chunks
from penstock.kernels.augment_reference import augment_reference
from penstock.kernels.backends import Backend

torch.set_num_threads(1)

BACKENDS: tuple[Backend, ...] = ("reference", "chunked")
RECIPE = AugmentRecipe(size=24, downsample_probability=0.3, downsample_sizes=(7, 16))


def noise(num: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, height, width, 3), dtype=torch.uint8, generator=generator)


def everything(backend: Backend) -> Tensor:
    """Views whose chain takes every step, and prepared images, smaller and larger.

    Some sides exceed 256, up to which a bfloat16 holds every whole number.
    """
    images = noise(12, 40, 300)
    params = draw_params(RECIPE, 3, torch.arange(12), 0, 0, 40, 300)
    for drawn in (params.downsample, params.blur_sigma, params.grayscale, params.color_factors[:, 3]):
        assert drawn.any()
    views = [augment(images, params, backend=backend)]
    views += [prepare(images, replace(RECIPE, size=size), backend=backend) for size in (24, 270)]
    return torch.cat([view.flatten() for view in views])


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def threads(num: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_bit(backend: Backend, dtype: torch.dtype) -> None:
    expected = everything(backend)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(everything(backend), expected)


def test_no_step_runs_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that autocast leaves alone today: its lists of operations grow."""
    enabled: list[bool] = []

    def spy(images: Tensor, params: AugmentParams, dtype: torch.dtype) -> Tensor:
        enabled.append(torch.is_autocast_enabled("cpu"))
        return augment_chunked(images, params, dtype)

    monkeypatch.setattr(augment_module, "augment_chunked", spy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        everything("chunked")
        assert torch.is_autocast_enabled("cpu")
    assert enabled == [False] * 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["medium", "high"])
def test_float32_matmul_precision_changes_no_bit(backend: Backend, precision: str) -> None:
    expected = everything(backend)
    with matmul_precision(precision):
        assert torch.equal(everything(backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_changes_no_bit(backend: Backend, dtype: torch.dtype) -> None:
    expected = everything(backend)
    with default_dtype(dtype):
        views = everything(backend)
    assert views.dtype == torch.float32
    assert torch.equal(views, expected)


@pytest.mark.parametrize(("num", "height", "width", "size"), [(24, 37, 41, 33), (8, 96, 80, 64), (3, 256, 250, 224)])
def test_a_sample_has_the_same_bits_alone_and_among_others(num: int, height: int, width: int, size: int) -> None:
    """Neighbours differ in crop, in downsample and in how far their blurs reach."""
    images, recipe = noise(num, height, width), replace(RECIPE, size=size)
    params = draw_params(recipe, 3, torch.arange(num), 0, 0, height, width)
    whole = augment(images, params)
    for sample in range(num):
        one = slice(sample, sample + 1)
        assert torch.equal(augment(images[one], params.of(one)), whole[one]), sample
        backwards = torch.arange(num - 1, sample - 1, -1)
        assert torch.equal(augment(images[backwards], params.of(backwards))[-1], whole[sample]), sample


def test_a_blur_reaches_no_further_for_a_neighbour() -> None:
    """The tap just beyond 5.5 deviations weighs 3e-9: enough to turn some of these 12,288 roundings."""
    images, recipe = noise(2, 64, 64), replace(AugmentRecipe.weak(64), blur_probability=1.0)
    drawn = draw_params(recipe, 3, torch.arange(2), 0, 0, 64, 64)
    params = replace(drawn, blur_sigma=torch.tensor([1.815, 2.0]))
    assert torch.equal(augment(images[:1], params.of(slice(1))), augment(images, params)[:1])


@pytest.mark.parametrize(("num", "height", "width", "size"), [(24, 37, 41, 33), (1, 256, 250, 224), (2, 300, 400, 257)])
def test_the_number_of_threads_changes_no_bit(num: int, height: int, width: int, size: int) -> None:
    images, recipe = noise(num, height, width), replace(RECIPE, size=size, jitter_probability=1.0, blur_probability=1.0)
    params = draw_params(recipe, 3, torch.arange(num), 0, 0, height, width)
    expected = augment(images, params)
    for number in (2, 3):
        with threads(number):
            assert torch.equal(augment(images, params), expected), number


@pytest.mark.parametrize(
    ("num", "height", "width", "size"), [(150, 32, 32, 32), (7, 300, 90, 60), (3, 20, 31, 257), (0, 32, 32, 32)]
)
def test_chunks_change_nothing(num: int, height: int, width: int, size: int) -> None:
    recipe = replace(RECIPE, size=size)
    images = noise(num, height, width)
    params = draw_params(recipe, 11, torch.arange(num), 0, 0, height, width)
    reference, chunked = (augment(images, params, backend=backend) for backend in BACKENDS)
    assert chunked.shape == (num, 3, size, size)
    torch.testing.assert_close(chunked, reference, rtol=0, atol=2e-5)
    assert torch.equal(augment(images, params), chunked)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bfloat16_view_is_the_rounded_float32_view(backend: Backend) -> None:
    images = noise(9, 40, 40)
    params = draw_params(AugmentRecipe.strong(32), 3, torch.arange(9), 0, 0, 40, 40)
    half = augment(images, params, dtype=torch.bfloat16, backend=backend)
    assert torch.equal(half, augment(images, params, backend=backend).bfloat16())


def test_a_view_depends_on_its_keys_only() -> None:
    recipe, images = AugmentRecipe.strong(32), noise(8, 32, 32)
    ids = torch.tensor([5, -7, 2**62, 3, 2**33 + 5, 11, 12, 13])
    echoes, views = torch.arange(8) % 3, torch.arange(8) % 2
    whole = augment(images, draw_params(recipe, 42, ids, echoes, views, 32, 32))
    for sample in range(8):
        one = slice(sample, sample + 1)
        params = draw_params(recipe, 42, ids[one], int(echoes[sample]), int(views[sample]), 32, 32)
        assert torch.equal(augment(images[one], params), whole[one])


@pytest.mark.parametrize(("device", "expected"), [("cpu", 1024), ("meta", 4)])
def test_a_chunk_is_bounded_on_every_device(device: str, expected: int) -> None:
    """1,024 images of 256²: one at a time on the host, 256 on an accelerator; "meta" stands for one."""
    images = (
        torch.empty(1024, 256, 256, 3, dtype=torch.uint8, device="meta").to(device)
        if device == "meta"
        else (torch.empty(1, 1, 1, 3, dtype=torch.uint8).expand(1024, 256, 256, 3))
    )
    parts = list(chunks(images, 224))
    assert len(parts) == expected
    assert sum(len(range(*part.indices(1024))) for part in parts) == 1024


class Transfers(TorchDispatchMode):
    """Counts the numbers that go from the host to another device."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[-1] if func is torch.ops.aten.copy_.default else args[0]
            if source.device.type == "cpu" and result.device.type != "cpu":
                self.numbers += source.numel()
        return result


@pytest.mark.parametrize("function", [augment_reference, augment_chunked])
def test_taps_are_formed_where_the_images_are(function: object) -> None:
    """Formed on the host, 2 x 224 x 3 weights a sample would go to the device, and a GPU wait for one core."""
    params = draw_params(AugmentRecipe(), 3, torch.arange(64), 0, 0, 256, 256)
    images = torch.empty(64, 256, 256, 3, dtype=torch.uint8, device="meta")
    with Transfers() as transfers:
        assert callable(function)
        function(images, params, torch.float32)
    assert 0 < transfers.numbers < 64 * 100
