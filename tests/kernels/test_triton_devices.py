"""Triton launches on the current device, whatever its arguments are on: ours must make theirs the current one."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

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
    from penstock.kernels import contrast_triton

    launches = Launches()
    monkeypatch.setattr(torch.cuda, "device_of", launches.device_of)
    for kernel in ("lse_kernel", "weighted_keys_kernel"):
        monkeypatch.setattr(contrast_triton, kernel, launches)
    return launches


def test_losses_launch_on_the_device_of_the_rows(launches: Launches) -> None:
    from penstock.kernels.contrast_triton import TritonKernels

    queries, keys, inverse_temperature = torch.ones(3, 4), torch.ones(5, 4), torch.tensor(10.0)
    TritonKernels().lse(queries, keys, inverse_temperature, None)
    TritonKernels().weighted_keys(queries, keys, torch.ones(3), torch.ones(5), inverse_temperature, None)
    assert [tensor is queries for tensor in launches.of] == [True, True]
