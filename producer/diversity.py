"""Watches whether the images of a prompt still differ: they are each other's positives, and equal ones teach nothing.

Models that were distilled to a few steps collapse to nearly one image a prompt (arXiv 2503.10637), and so does strong
guidance. The measure is the mean pairwise distance of the images' features within a group, as a share of that between
groups of different prompts: near 1 where the prompt hardly decides anything, 0 where it decides everything. It is a
share, so it needs no scale of the features.
"""

import json
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from penstock.protocol.errors import ModelError

_log = logging.getLogger(__name__)

Features = Callable[[Tensor], Tensor]
"""Images [n, 3, H, W] in 0..1 to float32 [n, D]."""
Vectors = NDArray[np.float32]

COLLAPSED = 0.1
"""A share below which the log warns."""
_WINDOW_GROUPS = 64
_MIN_GROUPS = 16
_OTHERS = 8
"""Groups of other prompts that each new one is compared with."""
_MAX_IMAGES = 32
"""Of a group that are looked at: distances are as many as their square."""
_GRID = 8


def pooled_pixels(images: Tensor) -> Tensor:
    """Mean colours on a grid of 8 x 8: enough to tell whether images are nearly the same. float32 [n, 192]."""
    return F.adaptive_avg_pool2d(images.float(), _GRID).flatten(1)


class EncoderFeatures:
    """Features of a vision encoder, of unit length.

    Args:
        folder: any vision model, or image and text model, that `transformers` opens: DINOv2, CLIP, SigLIP, ViT.
        device: where it works.

    Raises:
        ModelError: the folder does not load as such a model.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoModel

        try:
            self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            vision = getattr(self._model.config, "vision_config", self._model.config)
            side = vision.image_size
            self._side = (side, side) if isinstance(side, int) else tuple(side)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
            raise ModelError(f"diversity_encoder: {folder} does not load as a vision model: {error!s:.200}") from error
        self._model = self._model.eval().to(device)
        mean, std = _normalisation(folder)
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 [n, D] of images [n, 3, H, W] in 0..1."""
        images = F.interpolate(images.float(), self._side, mode="bilinear", antialias=True, align_corners=False)
        pixels = (images - self._mean) / self._std
        if hasattr(self._model, "get_image_features"):
            answer = self._model.get_image_features(pixel_values=pixels)
        else:
            answer = self._model(pixel_values=pixels)
        if not isinstance(answer, Tensor):
            pooled = getattr(answer, "pooler_output", None)
            answer = answer.last_hidden_state[:, 0] if pooled is None else pooled
        return F.normalize(answer.float(), dim=1)


def open_features(encoder: str, device: torch.device) -> Features:
    """The features that a setting names: those of the encoder in that folder, or pooled pixels where it is empty."""
    return EncoderFeatures(Path(encoder).expanduser(), device) if encoder else pooled_pixels


def _normalisation(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation that a model's pixels are normalised with; 0.5 where the folder does not say."""
    try:
        settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        return list(settings["image_mean"]), list(settings["image_std"])
    except (OSError, ValueError, KeyError, TypeError):
        return [0.5] * 3, [0.5] * 3


class DiversityWatch:
    """Keeps the share over the last groups, and warns once when it has collapsed."""

    def __init__(self) -> None:
        self._others: deque[tuple[str, Vectors]] = deque(maxlen=_OTHERS)
        self._distances: deque[tuple[float, float]] = deque(maxlen=_WINDOW_GROUPS)
        self._has_warned = False

    @property
    def share(self) -> float | None:
        """Mean distance within groups over that between groups; None before there are enough of them."""
        between = sum(distance for _, distance in self._distances)
        if len(self._distances) < _MIN_GROUPS or not between:
            return None
        return sum(distance for distance, _ in self._distances) / between

    def add(self, prompt: str, features: Vectors) -> None:
        """One more group.

        Args:
            prompt: of the group; groups of the same one say nothing about the distance between prompts.
            features: float32 [m, D]. One image alone says nothing.
        """
        features = features[:_MAX_IMAGES]
        others = [other for text, other in self._others if text != prompt]
        if len(features) > 1 and others:
            between = float(np.mean([_distances(features, other).mean() for other in others]))
            within = float(_distances(features, features).sum() / (len(features) * (len(features) - 1)))
            self._distances.append((within, between))
        self._others.append((prompt, features))
        share = self.share
        if share is not None and share < COLLAPSED and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "images of one prompt are nearly alike: their mean distance is %.0f%% of that between prompts; models "
                "of few steps and strong guidance do this, and contrast learns little from it: lower guidance_scale, "
                "take more steps, or another model",
                100 * share,
            )


def _distances(first: Vectors, second: Vectors) -> NDArray[np.float64]:
    """Euclidean distances float64 [n, k] between rows [n, D] and rows [k, D]."""
    distances: NDArray[np.float64] = np.linalg.norm(
        first[:, None].astype(np.float64) - second[None].astype(np.float64), axis=-1
    )
    return distances
