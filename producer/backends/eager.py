"""The backends that need no compilation: torch's own kernels, with its attention or that of xformers."""

from typing import Any

import torch
from torch import Tensor

from penstock.producer.backends.part import Call, Part
from penstock.protocol.errors import ModelError


class EagerBackend:
    """The layout that is fastest on the device, and torch's scaled dot product attention."""

    def build(self, part: Part) -> Call:
        """The module itself, its weights laid out anew."""
        return laid_out(part)


class XformersBackend:
    """As eager, with the attention of xformers. It is for CUDA only, and today about as fast as torch's own.

    Args:
        device: where the networks are.

    Raises:
        ModelError: the device is no GPU.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise ModelError(f"backend xformers needs a CUDA device, this is {device}; use --backend eager")

    def build(self, part: Part) -> Call:
        """The module itself, with other attention. Raises ModelError where xformers does not work on this device."""
        for network in part.module.modules():
            enable: Any = getattr(network, "enable_xformers_memory_efficient_attention", None)
            if enable is not None:
                # Its setter of backends by name does nothing to this UNet (diffusers 0.42).
                try:
                    enable()
                except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
                    raise ModelError(f"backend xformers does not work here: {error!r:.200}") from error
                break
        return laid_out(part)


def laid_out(part: Part) -> Call:
    """The module of `part` in the memory layout that is fastest where it is: channels last on a GPU.

    Not on a CPU, whose group norm is 4 to 16 times slower in that layout (bfloat16, torch 2.13, 8² to 4² pixels).
    """
    if part.inputs[0].device.type == "cpu":
        return part.module
    part.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def call(first: Tensor, *others: Tensor) -> Tensor:
        answer: Tensor = part.module(first.contiguous(memory_format=torch.channels_last), *others)
        return answer

    return call
