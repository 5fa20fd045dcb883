"""Triton launches on the current device, whatever its arguments are on: ours must make theirs the current one."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from penstock.kernels.augment import AugmentRecipe, draw_params

pytest.importorskip("triton", reason="triton is not installed (pip install triton)")


class Launches:
    """Kernels that only note which tensor's device was made the current one."""

    def __init__(self) -> None:
        self.current: list[Tensor] = []
        self.of: list[Tensor | None] = []

    @contextlib.contextmanager
    def device_of(self, tensor: Tensor) -> Iterator[None]:
        self.current.append(tensor)
        yield
        self.current.pop()

    def __getitem__(self, grid: object) -> Any:
        return lambda *_, **__: self.of.append(self.current[-1] if self.current else None)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    from penstock.kernels import augment_triton, contrast_triton

    launches = Launches()
    monkeypatch.setattr(torch.cuda, "device_of", launches.device_of)
    for module, kernels in (
        (contrast_triton, ("lse_kernel", "weighted_keys_kernel")),
        (augment_triton, ("mean_kernel", "view_kernel", "blur_kernel")),
    ):
        for kernel in kernels:
            monkeypatch.setattr(module, kernel, launches)
    return launches


def test_losses_launch_on_the_device_of_the_rows(launches: Launches) -> None:
    from penstock.kernels.contrast_triton import TritonKernels

    queries, keys, inverse_temperature = torch.ones(3, 4), torch.ones(5, 4), torch.tensor(10.0)
    TritonKernels().lse(queries, keys, inverse_temperature, None)
    TritonKernels().weighted_keys(queries, keys, torch.ones(3), torch.ones(5), inverse_temperature, None)
    assert [tensor is queries for tensor in launches.of] == [True, True]


def test_views_launch_on_the_device_of_the_images(launches: Launches) -> None:
    from penstock.kernels.augment_triton import augment_triton

    images = torch.zeros(16, 16, 16, 3, dtype=torch.uint8)
    augment_triton(images, draw_params(AugmentRecipe.strong(16), 0, torch.arange(16), 0, 0, 16, 16))
    assert len(launches.of) == 4, "means, views, and two for the blur"
    assert all(tensor is images for tensor in launches.of)
