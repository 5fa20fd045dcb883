"""From images of any size to an encoder's pixels, as the `preprocessor_config.json` beside its weights says.

The resize is `penstock.kernels.augment.prepare`, the very one that the trainer evaluates with: antialiased, bilinear.
Where the file asks for bicubic, as CLIP's does, pixels differ by a little. A centre crop is taken before the resize,
where it costs less, and not after it; both keep the same part of the image.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.kernels.augment import prepare
from penstock.kernels.augment_recipe import IMAGENET_MEAN, IMAGENET_STD, AugmentRecipe
from penstock.protocol.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What happens to an image before an encoder sees it."""

    size: int
    """Side of the encoder's square input, pixels."""
    central_share: float = 1.0
    """Sides of the centre that is kept, as a share of the image's."""
    square: bool = False
    """Whether that centre is a square, its side a share of the image's shorter one; else what is kept is stretched."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted from each channel in 0 .. 1, before division by `std`."""
    std: tuple[float, float, float] = IMAGENET_STD

    def pixel_values(self, images: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor:
        """Images uint8 `[H, W, 3]`, each of its own size, as float32 `[N, 3, size, size]` on `device`."""
        kept = [self._crop(image) for image in images]
        pixels = torch.empty(len(kept), 3, self.size, self.size, device=device)
        recipe = self.recipe()
        for shape in {image.shape for image in kept}:
            rows = [row for row, image in enumerate(kept) if image.shape == shape]
            batch = torch.from_numpy(np.stack([kept[row] for row in rows])).to(device)
            pixels[torch.tensor(rows, device=device)] = prepare(batch, recipe)
        return pixels

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def _crop(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        sides = (min(height, width),) * 2 if self.square else (height, width)
        kept_height, kept_width = (max(1, round(side * self.central_share)) for side in sides)
        top, left = (height - kept_height) // 2, (width - kept_width) // 2
        return image[top : top + kept_height, left : left + kept_width]

    def recipe(self) -> AugmentRecipe:
        """What `prepare` asks for. Raises ValueError where size, mean or std are impossible."""
        return replace(AugmentRecipe.weak(self.size), mean=self.mean, std=self.std)


def read_preprocessing(path: Path) -> Preprocessing:
    """What a `preprocessor_config.json`, or a `processor_config.json` that holds one, says.

    Raises ConfigError where it cannot be read, or asks for something that is not done here.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values = values.get("image_processor", values)
        return _understand(values)
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} says no preprocessing that can be done here: {error}") from error


def _understand(values: dict[str, Any]) -> Preprocessing:
    """Raises ValueError, KeyError or TypeError where the settings are others than resize, centre crop, normalise."""
    for step in ("do_resize", "do_rescale"):
        if not values.get(step, True):
            raise ValueError(f"{step} must be true, got {values[step]}")
    if abs(values.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ValueError(f"rescale_factor must be 1 / 255, got {values['rescale_factor']}")
    geometry = _geometry(values)
    if not values.get("do_normalize", True):
        return replace(geometry, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    preprocessing = replace(geometry, mean=tuple(values["image_mean"]), std=tuple(values["image_std"]))
    preprocessing.recipe()  # checks the numbers
    return preprocessing


def _geometry(values: dict[str, Any]) -> Preprocessing:
    """The side of the input, and what part of the image becomes it."""
    crop = _square(values["crop_size"]) if values.get("do_center_crop", False) else None
    size = values["size"]
    if isinstance(size, int):
        # CLIP's old files mean the shorter side by one number, ViT's mean both sides.
        size = {"height": size, "width": size} if crop is None else {"shortest_edge": size}
    if "shortest_edge" in size:
        if crop is None:
            raise ValueError("size.shortest_edge without do_center_crop leaves no square")
        resized = size["shortest_edge"]
    else:
        resized = _square(size)
    side = crop or resized
    if side > resized:
        raise ValueError(f"crop_size must be <= size ({resized}), got {side}")
    return Preprocessing(size=side, central_share=side / resized, square="shortest_edge" in size)


def _square(size: int | dict[str, int]) -> int:
    if isinstance(size, int):
        return size
    if size["height"] != size["width"]:
        raise ValueError(f"the input must be square, got {size['height']} x {size['width']}")
    return size["height"]
