"""Finds the backend that a setting names."""

import torch

from penstock.producer.backends.eager import EagerBackend, XformersBackend
from penstock.producer.backends.inductor import InductorBackend
from penstock.producer.backends.part import Backend
from penstock.producer.config import ProduceConfig
from penstock.protocol.errors import ModelError


def open_backend(config: ProduceConfig, device: torch.device) -> Backend:
    """The backend `config.backend` for networks on `device`. Raises ModelError where it cannot work here."""
    match config.backend:
        case "eager":
            return EagerBackend()
        case "xformers":
            return XformersBackend(device)
        case "inductor":
            return InductorBackend(device)
    raise ModelError(f"backend {config.backend!r} runs no networks")
