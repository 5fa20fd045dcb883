"""The augmentation against what torchvision v2 did to the same images (`make_goldens.py` made the file)."""

import pytest
import torch

from penstock.kernels.augment import augment
from penstock.kernels.backends import Backend
from tests.kernels.goldens import ARRAYS, NUM_FULL_SIZE, SMALL, STRIDE, golden

torch.set_num_threads(1)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize(("group", "num"), SMALL.items())
def test_equals_torchvision(group: str, num: int, backend: Backend) -> None:
    images, params, expected = golden(group)
    assert len(expected) == num
    torch.testing.assert_close(augment(images, params, backend=backend), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_equals_torchvision_in_float64_at_full_size(backend: Backend) -> None:
    images, params, expected = golden("full_size")
    assert len(expected) == NUM_FULL_SIZE
    views = augment(images, params, backend=backend)[:, :, ::STRIDE, ::STRIDE]
    torch.testing.assert_close(views, expected, rtol=0, atol=2e-5)


def test_torchvisions_own_float32_is_no_measure_at_full_size() -> None:
    photo, noise = ARRAYS["full_size/float32_error"]
    assert photo > 2e-5
    assert noise > 2e-5


def test_the_goldens_hold_every_order_of_the_jitter() -> None:
    _, params, expected = golden("jitter_in_every_order")
    assert len(params.color_order.unique(dim=0)) == 24
    distance = torch.cdist(expected.flatten(1)[::4], expected.flatten(1)[::4], p=torch.inf)
    assert (distance + torch.eye(6)).min() > 1e-3, "an order that changes nothing would test nothing"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("group", [*SMALL, "full_size"])
@pytest.mark.parametrize("backend", ["reference", "chunked", "triton"])
def test_equals_torchvision_on_the_gpu(group: str, backend: Backend) -> None:
    images, params, expected = golden(group)
    views = augment(images.cuda(), params, backend=backend).cpu()
    if group == "full_size":
        views = views[:, :, ::STRIDE, ::STRIDE]
    torch.testing.assert_close(views, expected, rtol=0, atol=2e-5)
