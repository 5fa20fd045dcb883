"""Finds the backend that a setting names."""

import torch

from penstock.producer.backends.eager import EagerBackend, XformersBackend
from penstock.producer.backends.inductor import InductorBackend
from penstock.producer.backends.options import TensorRTOptions
from penstock.producer.backends.part import Backend
from penstock.producer.backends.tensorrt import TensorRTBackend
from penstock.producer.config import ProduceConfig
from penstock.protocol.errors import ModelError


def backend_settings(config: ProduceConfig) -> dict[str, str]:
    """Settings of the backend that change pixels, for the manifest."""
    if config.backend != "tensorrt":
        return {}
    return {"tensorrt_level": str(config.tensorrt_level), "float32_sums": str(config.tensorrt_float32_sums).lower()}


def open_backend(config: ProduceConfig, device: torch.device) -> Backend:
    """The backend `config.backend` for networks on `device`. Raises ModelError where it cannot work here."""
    match config.backend:
        case "eager":
            return EagerBackend()
        case "xformers":
            return XformersBackend(device)
        case "inductor":
            return InductorBackend(device)
        case "tensorrt":
            if device.type != "cuda":
                raise ModelError(f"backend tensorrt needs a CUDA device, this is {device}; use --backend eager")
            options = TensorRTOptions(
                optimization_level=config.tensorrt_level, use_fp32_acc=config.tensorrt_float32_sums
            )
            return TensorRTBackend(options)
    raise ModelError(f"backend {config.backend!r} runs no networks")
