"""Augmentation of a batch of images, every sample by its own parameters.

`draw_params` says what happens to each sample, `augment` does it, `prepare` is the plain resize for
evaluation. Semantics are torchvision v2's on float images (`augment_reference.py` names the steps). Three
backends compute the same function:

    reference   plain batched torch, the whole batch at once
    chunked     by taps instead of matrices, a few samples at a time, so that their planes stay in the cache
    triton      fused kernels for CUDA (`augment_triton.py`)

`auto` is chunked; `backends.py` says why.
"""

import torch
from torch import Tensor

from penstock.kernels.augment_chunked import augment_chunked, chunks
from penstock.kernels.augment_matrices import resize_matrix
from penstock.kernels.augment_params import AugmentParams, draw_params
from penstock.kernels.augment_recipe import AugmentRecipe
from penstock.kernels.augment_reference import augment_reference, normalise_into, planes_of
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
        ValueError: images of another dtype, shape or number, or smaller than the parameters were drawn for; a
            dtype or backend that is not among those named; triton where it is not installed, or for images on
            the host outside its interpreter.
    """
    _check_images(images)
    _check_params(images, params)
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {dtype}")
    check_backend(backend, "images", images)
    match backend:
        case "triton":
            # Imported late: triton is optional, and slow to import.
            from penstock.kernels.augment_triton import augment_triton

            return augment_triton(images, params, dtype)
        case "reference":
            return augment_reference(images, params, dtype)
    return augment_chunked(images, params, dtype)


def prepare(images: Tensor, recipe: AugmentRecipe) -> Tensor:
    """Whole images resized to the recipe's size and normalised: what an encoder sees in evaluation.

    `images` uint8 `[B, H, W, 3]`; returns float32 `[B, 3, S, S]` on the same device. Raises ValueError for
    images of another dtype or shape.
    """
    _check_images(images)
    output = torch.empty(len(images), 3, recipe.size, recipe.size, device=images.device)
    _, height, width, _ = images.shape
    for chunk in chunks(images, recipe.size):
        planes = planes_of(images[chunk])
        if (height, width) != (recipe.size, recipe.size):
            rows, columns = (resize_matrix(side, recipe.size).to(images.device) for side in (height, width))
            planes = rows @ planes @ columns.T
        normalise_into(output[chunk], planes, recipe)
    return output


def _check_images(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must be uint8 [B, H, W, 3], got {images.dtype} {list(images.shape)}")


def _check_params(images: Tensor, params: AugmentParams) -> None:
    if len(images) != len(params):
        raise ValueError(f"images must be as many as the parameters, {len(params)}, got {len(images)}")
    for side, first, extent, available in (
        ("height", params.top, params.crop_height, images.shape[1]),
        ("width", params.left, params.crop_width, images.shape[2]),
    ):
        if (first + extent > available).any():
            raise ValueError(f"parameters must be drawn for these images, but a crop exceeds their {side}, {available}")
