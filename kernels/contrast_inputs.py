"""What the contrastive losses take: rows of one kind (images) or two (images and texts), checked and made unit rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_TEMPERATURE = 1e-6
"""The lowest that is taken; a float32 cosine is rounded to 6e-8, and a lower one would make much of that."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one kind as the caller gave them, and what the caller knows them by.

    Raises ValueError unless the features are floating point `[n, D]` and the labels int64 `[n]` on the same device.
    """

    name: str
    features: Tensor
    label_name: str
    labels: Tensor

    def __post_init__(self) -> None:
        name, features, label_name, labels = self.name, self.features, self.label_name, self.labels
        if features.ndim != 2 or not features.is_floating_point() or features.shape[1] == 0:
            shape = f"{features.dtype} {list(features.shape)}"
            raise ValueError(f"{name} must be floating point [n, D], D >= 1, got {shape}")
        if labels.dtype != torch.int64:
            raise ValueError(f"{label_name} must be int64 (they are hashes, never rounded), got {labels.dtype}")
        if labels.shape != features.shape[:1]:
            raise ValueError(f"{label_name} must be [{len(features)}], one for each row, got {list(labels.shape)}")
        if labels.device != features.device:
            raise ValueError(f"{label_name} must be on the device of {name}, {features.device}, got {labels.device}")


def check_alike(images: Rows, texts: Rows) -> None:
    """Raises ValueError where two kinds of rows differ in width or device."""
    if images.features.shape[1] != texts.features.shape[1]:
        widths = f"{images.features.shape[1]} and {texts.features.shape[1]}"
        raise ValueError(f"{images.name} and {texts.name} must be equally wide, got {widths}")
    if images.features.device != texts.features.device:
        devices = f"{images.features.device} and {texts.features.device}"
        raise ValueError(f"{images.name} and {texts.name} must be on one device, got {devices}")


def check_temperature(temperature: float | Tensor) -> None:
    """Raises ValueError for several elements, and for a value that is not finite or is below `MIN_TEMPERATURE`.

    The value of a tensor on another device than the CPU is not looked at: that would wait for the device.
    """
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1:
            raise ValueError(f"temperature must have one element, got shape {list(temperature.shape)}")
        if temperature.device.type != "cpu":
            return
        temperature = float(temperature.detach())
    if not MIN_TEMPERATURE <= temperature < math.inf:  # NaN fails too
        raise ValueError(f"temperature must be finite and >= {MIN_TEMPERATURE}, got {temperature}")


def working_dtype(kinds: Sequence[Rows]) -> torch.dtype:
    """float64 where all features have it, else float32."""
    return torch.float64 if all(kind.features.dtype == torch.float64 for kind in kinds) else torch.float32


def unit_rows(kinds: Sequence[Rows], dtype: torch.dtype) -> Tensor:
    """L2-normalised rows of all kinds, one kind after the other, `[sum n, D]` of `dtype`; zeros stay zeros."""
    units = [_unit(kind.features.to(dtype)) for kind in kinds]
    return units[0] if len(units) == 1 else torch.cat(units)


def inverse(temperature: float | Tensor, rows: Tensor) -> Tensor:
    """1 / temperature as a scalar of the rows' dtype on their device, with its gradient."""
    return torch.as_tensor(temperature, dtype=rows.dtype, device=rows.device).reshape(()).reciprocal()


def _unit(rows: Tensor) -> Tensor:
    """Large rows are first divided by their largest element, as the squares of 1e25 are beyond float32.

    The result does not depend on that divisor, so it may go without gradient. Small rows are left to `normalize`, which
    bounds their gradient by taking no norm for less than 1e-12.
    """
    largest = torch.linalg.vector_norm(rows.detach(), torch.inf, dim=1, keepdim=True)
    return F.normalize(rows / largest.clamp(min=1), dim=1)
