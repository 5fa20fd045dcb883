"""Eight-bit weights and activations, by NVIDIA's ModelOpt.

It puts quantisers into a copy of the module and shows it calibration inputs to find the ranges; Torch-TensorRT makes
FP8 kernels of that (GPUs from Ada and Hopper on). None of this has run. What the images lose must be judged by eye and
by FID.
"""

import copy
import importlib
import importlib.util
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from penstock.producer.backends.part import Part
from penstock.producer.backends.signatures import call_named
from penstock.protocol.errors import ModelError

Calibration = Callable[[Part], Iterable[tuple[Tensor, ...]]]
"""Inputs of a part as generation would give them: real prompts, latents of all timesteps. Noise gives wrong ranges."""

TOLERANCE = 0.1
"""Relative RMS: e4m3 has 4 significant bits, so an operand is off by up to 6% and by 2.6% RMS. Not measured."""


def quantized(part: Part, calibration: Calibration | None) -> Part:
    """The part with a quantised copy of its module. Raises ModelError where ModelOpt or calibration is missing."""
    if calibration is None:
        raise ModelError(f"fp8 needs calibration inputs for part {part.name!r}; give them, or turn fp8 off")
    quantization = _modelopt("modelopt.torch.quantization")

    def show(module: nn.Module) -> None:
        with torch.no_grad():
            for inputs in calibration(part):
                module(*inputs)

    module = call_named(
        quantization.quantize, copy.deepcopy(part.module), quantization.FP8_DEFAULT_CFG, forward_loop=show
    )
    return Part(part.name, module, part.inputs)


def export_mode() -> AbstractContextManager[None]:
    """Within it a quantised module exports its quantisers as operators. Raises ModelError where ModelOpt is missing."""
    mode: AbstractContextManager[None] = _modelopt("modelopt.torch.quantization.utils").export_torch_mode()
    return mode


def _modelopt(name: str) -> Any:
    if importlib.util.find_spec("modelopt") is None:
        raise ModelError("fp8 needs the package modelopt, which is not installed: pip install nvidia-modelopt")
    return importlib.import_module(name)
