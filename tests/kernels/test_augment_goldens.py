"""The augmentation against what torchvision v2 did to the same float images (`make_goldens.py` made the file)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from penstock.kernels.augment import AugmentParams, AugmentRecipe, augment
from penstock.kernels.backends import Backend

torch.set_num_threads(1)

ARRAYS = np.load(Path(__file__).with_name("augment_goldens.npz"), allow_pickle=False)
GROUPS = {
    "crop_and_resize": 7,
    "jitter_alone": 9,
    "jitter_in_every_order": 24,
    "grayscale": 1,
    "blur": 5,
    "flip": 2,
    "downsample": 3,
    "chain": 7,
}


def golden(group: str) -> tuple[Tensor, AugmentParams, Tensor]:
    """Images, parameters and torchvision's views of a group."""
    arrays = {name.partition("/")[2]: ARRAYS[name] for name in ARRAYS.files if name.startswith(f"{group}/")}
    images = torch.from_numpy(ARRAYS["images"][arrays.pop("image")])
    expected = torch.from_numpy(arrays.pop("expected"))
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)} if group != "chain" else {}
    recipe = AugmentRecipe(size=expected.shape[-1], **plain)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for name in ("color_factors", "blur_sigma"):
        tensors[name] = tensors[name].float()
    return images, AugmentParams(recipe=recipe, **tensors), expected


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize(("group", "num"), GROUPS.items())
def test_equals_torchvision(group: str, num: int, backend: Backend) -> None:
    images, params, expected = golden(group)
    assert len(expected) == num
    torch.testing.assert_close(augment(images, params, backend=backend), expected, rtol=0, atol=2e-5)


def test_the_goldens_hold_every_order_of_the_jitter() -> None:
    _, params, expected = golden("jitter_in_every_order")
    assert len(params.color_order.unique(dim=0)) == 24
    distance = torch.cdist(expected.flatten(1)[::4], expected.flatten(1)[::4], p=torch.inf)
    assert (distance + torch.eye(6)).min() > 1e-3, "an order that changes nothing would test nothing"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_equals_torchvision_on_the_gpu(group: str, backend: Backend) -> None:
    images, params, expected = golden(group)
    torch.testing.assert_close(augment(images.cuda(), params, backend=backend).cpu(), expected, rtol=0, atol=2e-5)
