"""Asks whether a built call computes what its module computes, before a trainer sees an image of it.

Both run on the same fixed noise. Two numbers judge the difference, each relative to the root mean square (RMS) of the
module's output: its own RMS, which a wrong operator, scale or weight moves, and its largest element, which one wrong
pixel or border moves while the RMS hides it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from penstock.producer.backends.part import Call, Part
from penstock.protocol.errors import ModelError

TOLERANCES = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Relative RMS that two right implementations may differ by, by the dtype of the part's first input.

Two implementations of one network round in different places. Measured on the CPU with Stable Diffusion 1.5's denoiser
(random weights, 16 x 16 latents), one layout or attention against another: 2.9e-6 in float32, 1.5e-3 in float16, 1.3e-2
in bfloat16; so the errors follow the significant bits (24, 11, 8). The two short ones get three times what was seen.
float32 gets 35 times, because cuDNN and TensorRT may choose Winograd's convolutions, and is still a tenth of what TF32
would make. What is wrong on purpose lies above: a scale off by 1% is 1e-2, a wrong stride or a lost layer .1 to 1.
bfloat16 alone would let that 1% pass.
"""

MAX_OVER_RMS = 50.0
"""How many tolerances the largest difference may have. Rounding errors over a million elements reach 5 to 10 of their
RMS; one pixel of 512 x 512 that is wholly wrong is 1 in the maximum, 200 tolerances of float16, and .002 in the RMS."""

TIMESTEPS = (999.0, 801.0, 601.0, 401.0, 201.0, 1.0)
"""Spread over the schedule: at the ends the time embedding's sines and the skip connections' scales differ most."""

SEED = 20231206


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a built call is from its module; both are relative to the RMS of the module's output."""

    rms: float
    largest: float


def verify(part: Part, built: Call, tolerance: float | None = None) -> Difference:
    """The largest difference between the part's module and `built` over all draws.

    Args:
        part: the module, called in its own dtype, without TF32.
        built: the call to judge.
        tolerance: relative RMS that is let pass; None takes that of the dtype.

    Raises:
        ModelError: the difference exceeds the tolerance, a result is not finite, or shape or dtype are others.
    """
    dtype = part.inputs[0].dtype
    if tolerance is None:
        if dtype not in TOLERANCES:
            raise ModelError(f"part {part.name!r} has no tolerance for {dtype}; use float32, float16 or bfloat16")
        tolerance = TOLERANCES[dtype]
    worst = Difference(0.0, 0.0)
    with torch.no_grad(), _without_tf32():
        for inputs in draws(part):
            seen = _compare(part.name, part.module(*inputs), built(*inputs))
            worst = Difference(max(worst.rms, seen.rms), max(worst.largest, seen.largest))
    if not (worst.rms <= tolerance and worst.largest <= MAX_OVER_RMS * tolerance):
        raise ModelError(
            f"part {part.name!r} as built differs from its module in {dtype}: relative RMS {worst.rms:.2g} (tolerance "
            f"{tolerance:.2g}), largest {worst.largest:.2g} (tolerance {MAX_OVER_RMS * tolerance:.2g}); use backend "
            "eager, or float32 if rounding is the cause"
        )
    return worst


@contextmanager
def _without_tf32() -> Iterator[None]:
    """CuDNN as it serves, but for TF32. Its own context manager would switch it off altogether."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def draws(part: Part) -> Iterator[tuple[Tensor, ...]]:
    """Inputs of the part's shapes, the same on every machine: noise, for a denoiser at each of `TIMESTEPS`.

    Within a batch the timesteps are rotated, so that every row sees several and neighbours differ.
    """
    generator = torch.Generator("cpu").manual_seed(SEED)
    num_draws = len(TIMESTEPS) if part.name == "denoiser" else 2
    for draw in range(num_draws):
        yield tuple(_draw(part, slot, draw, generator).to(example) for slot, example in enumerate(part.inputs))


def _draw(part: Part, slot: int, draw: int, generator: torch.Generator) -> Tensor:
    """Input number `slot`, float32 on the host."""
    shape = part.inputs[slot].shape
    if part.name == "denoiser" and slot == 1:
        return torch.tensor([TIMESTEPS[(row + draw) % len(TIMESTEPS)] for row in range(shape[0])])
    if part.name == "denoiser" and slot == 4:  # SDXL's sizes and crops, in pixels
        return torch.randint(0, 1025, shape, generator=generator).float()
    return torch.randn(shape, generator=generator)


def _compare(name: str, reference: Tensor, result: Tensor) -> Difference:
    if result.shape != reference.shape or result.dtype != reference.dtype:
        raise ModelError(
            f"part {name!r} as built gives {result.dtype} {list(result.shape)}, its module {reference.dtype} "
            f"{list(reference.shape)}; use backend eager"
        )
    if not torch.isfinite(reference).all():
        raise ModelError(f"part {name!r} itself gives values that are not finite on noise; try float32 or bfloat16")
    if not torch.isfinite(result).all():
        raise ModelError(
            f"part {name!r} as built gives values that are not finite, its module does not; use eager or bfloat16"
        )
    difference = result.double() - reference.double()
    scale = max(math.sqrt(reference.double().square().mean().item()), torch.finfo(reference.dtype).tiny)
    return Difference(
        rms=math.sqrt(difference.square().mean().item()) / scale, largest=difference.abs().max().item() / scale
    )
