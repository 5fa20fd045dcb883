"""From made images to a scorer's pixels, as the image processor's settings beside its weights say.

transformers' own processors want torchvision, or take one image at a time on the CPU. Here a whole block is resized
where it lies, by `torch.nn.functional.interpolate` with antialiasing, whose filters are Pillow's, and rounded to whole
levels, as Pillow does: what differs from transformers' own is at most a level or two of 255.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.protocol.errors import ModelError

_FILES = ("preprocessor_config.json", "processor_config.json")
_FILTERS = {2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers, which the settings use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerPixels:
    """What happens to an image before a scorer sees it."""

    height: int = 0
    """Of the image after the resize, pixels; 0 where `shortest_edge` or `max_patches` says it."""
    width: int = 0
    """As `height`."""
    shortest_edge: int = 0
    """What the shorter side becomes; the other keeps its share."""
    crop: tuple[int, int] | None = None
    """Height and width of the centre that is kept after the resize."""
    patch: int = 0
    """SigLIP 2 of any shape: side of a patch; 0 where the model takes a whole image."""
    max_patches: int = 0
    """SigLIP 2 of any shape: the image becomes as large as so many patches hold."""
    filter: str = "bicubic"
    """`bicubic` or `bilinear`."""
    mean: tuple[float, ...]
    """Subtracted from each channel in 0..1, before division by `std`."""
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """What the model takes beside text, for images uint8 [n, H, W, 3] of any one size, on their device."""
        pixels = images.permute(0, 3, 1, 2).float()
        size = self._size(*pixels.shape[2:])
        if size != tuple(pixels.shape[2:]):
            pixels = F.interpolate(pixels, size, mode=self.filter, antialias=True, align_corners=False)
        pixels = self._cropped(pixels.round().clamp(0, 255)) / 255
        mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        pixels = (pixels - mean) / std
        return self._patches(pixels) if self.patch else {"pixel_values": pixels}

    @property
    def output_size(self) -> tuple[int, int] | None:
        """Height and width of what comes out, where they do not hang on the image's own."""
        return None if self.patch else self.crop or (self.height, self.width)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """After the resize, as transformers counts it."""
        if self.patch:
            return size_for_patches(height, width, self.patch, self.max_patches)
        if not self.shortest_edge:
            return self.height, self.width
        short, edge = min(height, width), self.shortest_edge
        return (edge, int(edge * width / short)) if height <= width else (int(edge * height / short), edge)

    def _cropped(self, pixels: Tensor) -> Tensor:
        if self.crop is None:
            return pixels
        top, left = ((have - kept) // 2 for have, kept in zip(pixels.shape[2:], self.crop, strict=True))
        return pixels[:, :, top : top + self.crop[0], left : left + self.crop[1]]

    def _patches(self, pixels: Tensor) -> dict[str, Tensor]:
        """Patches [n, max_patches, patch * patch * 3] row by row, what of them is real, and how they lie."""
        num, (rows, columns) = len(pixels), (side // self.patch for side in pixels.shape[2:])
        cut = pixels.view(num, 3, rows, self.patch, columns, self.patch).permute(0, 2, 4, 3, 5, 1)
        cut = cut.reshape(num, rows * columns, -1)
        mask = torch.zeros(num, self.max_patches, dtype=torch.int32, device=pixels.device)
        mask[:, : rows * columns] = 1
        return {
            "pixel_values": F.pad(cut, (0, 0, 0, self.max_patches - rows * columns)),
            "pixel_attention_mask": mask,
            "spatial_shapes": torch.tensor([[rows, columns]], device=pixels.device).expand(num, 2),
        }


def size_for_patches(height: int, width: int, patch: int, max_patches: int) -> tuple[int, int]:
    """Height and width in whole patches of an image that is scaled until `max_patches` hold it, as SigLIP 2 does."""

    def scaled(scale: float) -> tuple[int, int]:
        return max(patch, math.ceil(height * scale / patch) * patch), max(
            patch, math.ceil(width * scale / patch) * patch
        )

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        rows, columns = scaled(middle)
        low, high = (middle, high) if rows * columns <= max_patches * patch * patch else (low, middle)
    return scaled(low)


def read_pixels(folder: Path) -> ScorerPixels:
    """What the image processor's settings in `folder` say.

    Raises ModelError where there are none, or where they ask for something that is not done here.
    """
    paths = [folder / name for name in _FILES if (folder / name).is_file()]
    if not paths:
        raise ModelError(f"scorer: {folder} has no {_FILES[0]}, which says how images are resized for it")
    try:
        values = json.loads(paths[0].read_text(encoding="utf-8"))
        return _understand(values.get("image_processor", values))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"scorer: {paths[0]} says no preprocessing that can be done here: {error!s:.200}") from error


def _understand(values: dict[str, Any]) -> ScorerPixels:
    """Raises ValueError, KeyError or TypeError where the settings are others than resize, centre crop, normalise."""
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not values.get(step, True):
            raise ValueError(f"{step} must be true, got {values[step]}")
    if values.get("do_pad"):
        raise ValueError(f"do_pad must be false, got {values['do_pad']}")
    if abs(values.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ValueError(f"rescale_factor must be 1 / 255, got {values['rescale_factor']}")
    mean, std = (tuple(float(value) for value in values[name]) for name in ("image_mean", "image_std"))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"image_mean and image_std must be three numbers each, std > 0, got {mean} and {std}")
    patch = values.get("patch_size", 0) if "max_num_patches" in values else 0
    resample = values.get("resample", 2 if patch else 3)
    if resample not in _FILTERS:
        raise ValueError(f"resample must be 2 (bilinear) or 3 (bicubic), got {resample}")
    geometry = {"patch": patch, "max_patches": values["max_num_patches"]} if patch else _geometry(values)
    return ScorerPixels(filter=_FILTERS[resample], mean=mean, std=std, **geometry)


def _geometry(values: dict[str, Any]) -> dict[str, Any]:
    """How large the image becomes, and what of it is kept."""
    crop = _sides(values["crop_size"]) if values.get("do_center_crop", False) else None
    size = values["size"]
    if isinstance(size, int):
        # CLIP's old files mean the shorter side by one number, SigLIP's both sides.
        size = {"height": size, "width": size} if crop is None else {"shortest_edge": size}
    if "shortest_edge" not in size:
        height, width = _sides(size)
        smallest = (height, width)
        geometry: dict[str, Any] = {"height": height, "width": width}
    elif crop is None:
        raise ValueError("size.shortest_edge without do_center_crop leaves images of any shape")
    else:
        smallest = (size["shortest_edge"],) * 2
        geometry = {"shortest_edge": size["shortest_edge"]}
    if crop is not None and (crop[0] > smallest[0] or crop[1] > smallest[1]):
        raise ValueError(f"crop_size must be <= size {smallest}, got {crop}")
    return geometry | {"crop": crop}


def _sides(size: int | dict[str, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size["height"], size["width"])
