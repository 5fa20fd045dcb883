"""Finds the backend that a setting names."""

import torch

from penstock.producer.backends.eager import EagerBackend, XformersBackend
from penstock.producer.backends.fp8 import Calibration
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
    level, sums, fp8 = config.tensorrt_level, config.tensorrt_float32_sums, config.tensorrt_fp8
    return {"tensorrt_level": str(level), "float32_sums": str(sums).lower(), "fp8": str(fp8).lower()}


def open_backend(config: ProduceConfig, device: torch.device, calibration: Calibration | None = None) -> Backend:
    """The backend `config.backend` for networks on `device`. Raises ModelError where it cannot work here.

    Args:
        config: the backend and its options.
        device: where the networks are.
        calibration: inputs for eight-bit arithmetic.
    """
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
                optimization_level=config.tensorrt_level,
                use_fp32_acc=config.tensorrt_float32_sums,
                offload_module_to_cpu=config.tensorrt_offload,
                cuda_graphs=config.tensorrt_cuda_graphs,
                fp8=config.tensorrt_fp8,
            )
            return TensorRTBackend(options, calibration=calibration)
    raise ModelError(f"backend {config.backend!r} runs no networks")
