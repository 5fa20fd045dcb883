"""Augmentation of a batch of images, every sample by its own parameters.

`draw_params` says what happens to each sample, `augment` does it, `prepare` is the plain resize for
evaluation. Semantics are torchvision v2's on float images (`augment_reference.py` names the steps): views of small
images are within 2e-5 of what torchvision makes in float32, views of 256 x 256 at 224 x 224 within 2e-5 of what it
makes in float64. There its own float32 is off by up to 8e-5, as it places pixels by float32 numbers. Three backends
compute the same function:

    reference   plain batched torch, the whole batch at once
    chunked     by taps instead of matrices, a few samples at a time, so that their planes stay in the cache
    triton      fused kernels for CUDA (`augment_triton.py`)

`auto` is chunked; `backends.py` says why. No arithmetic is below float32 in any of them, under `torch.autocast` and
at any `torch.set_float32_matmul_precision` too. On the CPU, and by triton, a sample's bits depend neither on its
neighbours in the batch nor on the number of threads; `reference` promises that to 2e-6 only.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from penstock.kernels.augment_chunked import augment_chunked
from penstock.kernels.augment_params import AugmentParams, draw_params, whole_images
from penstock.kernels.augment_recipe import AugmentRecipe
from penstock.kernels.augment_reference import augment_reference
from penstock.kernels.backends import Backend, check_backend

__all__ = ["AugmentParams", "AugmentRecipe", "augment", "draw_params", "prepare"]


def augment(
    images: Tensor,
    params: AugmentParams,
    *,
    dtype: torch.dtype = torch.float32,
    backend: Backend = "auto",
) -> Tensor:
    """One augmented view of each image.

    Args:
        images: uint8 `[B, H, W, 3]`, with the H and W that the parameters were drawn for.
        params: from `draw_params`, for the same B samples.
        dtype: of the result, float32 or bfloat16; the arithmetic is float32's, a bfloat16 is its rounding.
        backend: the implementation, see above; all agree to 2e-5 in float32.

    Returns:
        `dtype` `[B, 3, S, S]`, normalised, on the images' device, S = `params.recipe.size`.

    Raises:
        ValueError: images of another dtype, shape or number than the parameters were drawn for; a dtype or backend
            that is not among those named; triton where it is not installed, or for images on the host outside its
            interpreter.
    """
    _check_images(images)
    if len(images) != len(params):
        raise ValueError(f"images must be as many as the parameters, {len(params)}, got {len(images)}")
    height, width = images.shape[1:3]
    if (height, width) != (params.height, params.width):
        raise ValueError(
            f"images must have the height and width that the parameters were drawn for, "
            f"{params.height} x {params.width}, got {height} x {width}"
        )
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {dtype}")
    check_backend(backend, "images", images)
    with _no_autocast(images.device):
        match backend:
            case "triton":
                # Imported late: triton is optional, and slow to import.
                from penstock.kernels.augment_triton import augment_triton

                return augment_triton(images, params, dtype)
            case "reference":
                return augment_reference(images, params, dtype)
        return augment_chunked(images, params, dtype)


def prepare(
    images: Tensor, recipe: AugmentRecipe, *, dtype: torch.dtype = torch.float32, backend: Backend = "auto"
) -> Tensor:
    """Whole images resized to the recipe's size and normalised: what an encoder sees in evaluation.

    It is `augment` by a crop of the whole image and nothing else, and takes, returns and raises the same.
    """
    _check_images(images)
    params = whole_images(recipe, *images.shape[:3])
    return augment(images, params, dtype=dtype, backend=backend)


def _check_images(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise ValueError(f"images must be uint8 [B, H, W, 3], got {images.dtype} {list(images.shape)}")


def _no_autocast(device: torch.device) -> AbstractContextManager[object]:
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
