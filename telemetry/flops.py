"""Counts a network's arithmetic, and measures what the device reaches with nothing but matrix products."""

import time

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

_BUDGET_S = 0.2
"""Seconds of matrix products, after some to warm up."""


def count_flops(module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Floating point operations of one call, two for each product and sum; counted on its first row, by torch.

    The module is left as it was, what it counts of its batches included.

    Args:
        module: whose arithmetic is proportional to its batch.
        inputs: [B, ...] each.
    """
    # Shapes only: the one kind of attention that torch counts everywhere would else write out all its scores.
    counter, shapes = FlopCounterMode(display=False), FakeTensorMode(allow_non_fake_inputs=True)
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), shapes, counter:
            module(*(torch.empty_like(shapes.from_tensor(tensor[:1])) for tensor in inputs))
    finally:
        for part, mode in modes:
            part.training = mode
    return float(counter.get_total_flops()) * len(inputs[0])


def matrix_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """What a product of two large square matrices reaches: the median of several, in floating point operations/s.

    Draws from a generator of its own: who measures must not change what the run draws next.
    """
    noise = torch.Generator(device).manual_seed(0)
    side = 8192 if device.type == "cuda" else 1024
    with torch.inference_mode():
        left, right = (torch.randn((side, side), generator=noise, dtype=dtype, device=device) for _ in range(2))
        rates: list[float] = []
        begun = time.perf_counter()
        while len(rates) < 4 or time.perf_counter() - begun < _BUDGET_S:
            _wait(device)
            start = time.perf_counter()
            torch.mm(left, right)
            _wait(device)
            rates.append(2 * side**3 / (time.perf_counter() - start))
    return sorted(rates[1:])[len(rates[1:]) // 2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
