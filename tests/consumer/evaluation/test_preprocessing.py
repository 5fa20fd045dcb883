"""Preprocessing files as published models have them, against transformers' own processors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import CLIPImageProcessor, ViTImageProcessor

from penstock.consumer.evaluation.preprocessing import Preprocessing, read_preprocessing
from penstock.protocol.errors import ConfigError

CPU = torch.device("cpu")
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
VIT = {"size": {"height": 32, "width": 32}, "image_mean": MEAN, "image_std": STD}
CLIP = {
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 24, "width": 24},
    "do_center_crop": True,
    "image_mean": MEAN,
    "image_std": STD,
}


def read(tmp_path: Path, values: dict[str, Any]) -> Preprocessing:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(values))
    return read_preprocessing(path)


def smooth_image(height: int, width: int) -> NDArray[np.uint8]:
    """A picture without fine detail, on which resizes agree whatever their filter."""
    down, right = np.mgrid[0:height, 0:width]
    waves = [np.sin(down / height * 3 + channel) + np.cos(right / width * 4 - channel) for channel in range(3)]
    return np.rint((np.stack(waves, axis=-1) + 2) * 63).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (128, 64), (48, 48)])
def test_whole_images_are_stretched_as_vit_s_processor_does(tmp_path: Path, height: int, width: int) -> None:
    image = smooth_image(height, width)
    theirs = ViTImageProcessor(**VIT)(image, return_tensors="pt")["pixel_values"]
    ours = read(tmp_path, VIT).pixel_values([image], CPU)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.03)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (128, 64), (64, 64)])
def test_the_centre_is_kept_as_by_clip_s_processor(tmp_path: Path, height: int, width: int) -> None:
    image = smooth_image(height, width)
    theirs = CLIPImageProcessor(**CLIP)(image, return_tensors="pt")["pixel_values"]
    ours = read(tmp_path, CLIP).pixel_values([image], CPU)
    assert ours.shape == theirs.shape == (1, 3, 24, 24)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)


def test_images_of_several_sizes_keep_their_places(tmp_path: Path) -> None:
    images = [smooth_image(40, 60), smooth_image(64, 64), smooth_image(40, 60)[:, ::-1], smooth_image(50, 40)]
    preprocessing = read(tmp_path, VIT)
    together = preprocessing.pixel_values(images, CPU)
    for row, image in enumerate(images):
        torch.testing.assert_close(together[row], preprocessing.pixel_values([image], CPU)[0])


@pytest.mark.parametrize(
    ("values", "size", "share", "square"),
    [
        ({"size": 224, "image_mean": MEAN, "image_std": STD}, 224, 1.0, False),  # google/vit, before 4.26
        ({**CLIP, "size": 256, "crop_size": 224}, 224, 224 / 256, True),  # openai/clip, before 4.26
        ({**CLIP, "size": {"height": 256, "width": 256}, "crop_size": 224}, 224, 224 / 256, False),  # facebook/deit
        ({**VIT, "do_center_crop": None, "crop_size": 7}, 32, 1.0, False),
        ({"image_processor": VIT}, 32, 1.0, False),  # a processor_config.json
    ],
)
def test_published_forms_are_understood(
    tmp_path: Path, values: dict[str, Any], size: int, share: float, square: bool
) -> None:
    found = read(tmp_path, values)
    assert (found.size, found.central_share, found.square) == (size, share, square)
    assert (list(found.mean), list(found.std)) == (MEAN, STD)


def test_without_normalisation_pixels_stay_in_0_to_1(tmp_path: Path) -> None:
    found = read(tmp_path, {"size": 8, "do_normalize": False})
    white = np.full((8, 8, 3), 255, np.uint8)
    torch.testing.assert_close(found.pixel_values([white], CPU), torch.ones(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({**VIT, "do_rescale": False}, "do_rescale must be true, got False"),
        ({**VIT, "rescale_factor": 1 / 127.5}, "rescale_factor must be 1 / 255"),
        ({**VIT, "size": {"height": 32, "width": 48}}, "the input must be square, got 32 x 48"),
        ({**CLIP, "do_center_crop": False}, "size.shortest_edge without do_center_crop leaves no square"),
        ({**CLIP, "crop_size": 40}, r"crop_size must be <= size \(32\), got 40"),
        ({**VIT, "image_std": [0, 1, 1]}, "std must hold three finite numbers > 0"),
        ({**VIT, "image_mean": [0.5]}, "mean must hold three"),
        ({"image_mean": MEAN, "image_std": STD}, "'size'"),
        ([1, 2], "has no attribute 'get'"),
    ],
)
def test_what_is_not_done_here_is_refused(tmp_path: Path, values: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"says no preprocessing that can be done here: .*{reason}"):
        read(tmp_path, values)
