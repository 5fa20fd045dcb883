"""The augmentation by Triton kernels, for CUDA: what `augment(backend="triton")` runs.

Four kernels (`augment_kernels.py`), after the plan that the traffic dictates (256 x 256 x 3 bytes in, 224 x 224 x 3
numbers out):

    mean_kernel    resample and the jitter before the contrast step: sums of grey by tile; only for samples whose
                   contrast changes
    total_kernel   the mean grey of those
    view_kernel    resample, flip, jitter in the sample's own order, grey, normalise
    blur_kernel    one axis of the Gaussian; only for blurred samples, which `view_kernel` leaves in float32

Resampling twice is cheaper than a float32 image written and read again. Blurring comes after normalising here:
its weights add up to 1, so the two commute. No atomics, no sum whose order another sample decides: the same bits every
time, whatever else the batch holds. Few samples are downsampled; that is done in plain torch before.
"""

import torch
import triton
from torch import Tensor

from penstock.kernels.augment_chunked import downsample_
from penstock.kernels.augment_kernels import blur_kernel, mean_kernel, total_kernel, view_kernel
from penstock.kernels.augment_matrices import cut_blur_taps, view_taps
from penstock.kernels.augment_params import CONTRAST, AugmentParams
from penstock.kernels.augment_reference import planes_of

BLOCK = 256
"""Pixels a program, 2 for each of its 128 threads: at most 48 registers on sm_90 at any reduction; 4 pixels take 64."""


def augment_triton(images: Tensor, params: AugmentParams, dtype: torch.dtype = torch.float32) -> Tensor:
    """`augment` by the kernels; checks nothing.

    `images` uint8 `[B, H, W, 3]` on a CUDA device (or on the host under TRITON_INTERPRET=1, where a bfloat16
    result is not to be trusted); returns `dtype` `[B, 3, S, S]` there.
    """
    # Triton launches on the current device, which need not be the images'.
    with torch.cuda.device_of(images):
        return _launch(images.contiguous(), params, dtype)


def _launch(images: Tensor, params: AugmentParams, dtype: torch.dtype) -> Tensor:
    (num, height, width, _), size, device = images.shape, params.recipe.size, images.device
    output = torch.empty(num, 3, size, size, dtype=dtype, device=device)
    blurred = params.blur_sigma.nonzero().squeeze(1)
    unblurred = torch.empty(len(blurred), 3, size, size, dtype=torch.float32, device=device)
    slots = torch.full((num,), -1).scatter_(0, blurred, torch.arange(len(blurred))).to(device)
    grid_y = triton.cdiv(size * size, BLOCK)
    sums = torch.empty(num, grid_y, dtype=torch.float32, device=device)
    means = torch.zeros(num, dtype=torch.float32, device=device)
    rows, row_taps, columns, column_taps = (taps.contiguous() for taps in view_taps(params, device))
    rows, columns = rows.int(), columns.int()
    order, factors = params.color_order.int().to(device), params.color_factors.to(device)
    grayscale = params.grayscale.int().to(device)
    common = {"ROW_TAPS": row_taps.shape[2], "COLUMN_TAPS": column_taps.shape[2], "BLOCK": BLOCK}
    resample = (rows, row_taps, columns, column_taps, order, factors)

    sources = list(_sources(images, params))
    contrast = params.color_factors[:, CONTRAST] != 1
    for source, positions, samples, scale in sources:
        chosen = contrast[samples]
        if chosen.any():
            index = (positions[chosen].to(device), samples[chosen].to(device))
            grid = (len(index[0]), grid_y)
            mean_kernel[grid](source, *index, sums, *resample, scale, height, width, size, grid_y, **common)
            total_kernel[(len(index[1]),)](sums, means, index[1], grid_y, size**2, TILES=triton.next_power_of_2(grid_y))
    for source, positions, samples, scale in sources:
        if len(samples):
            view_kernel[(len(samples), grid_y)](
                source, positions.to(device), samples.to(device), output, unblurred, slots, means, *resample,
                grayscale, scale, height, width, size, *params.recipe.mean, *params.recipe.std, **common,
            )  # fmt: skip
    if len(blurred):
        _blur(unblurred, output, params, blurred)
    return output


def _sources(images: Tensor, params: AugmentParams) -> list[tuple[Tensor, Tensor, Tensor, float]]:
    """What to resample from: images `[.., H, W, 3]`, positions in them, the samples they are for, a pixel's unit.

    The few that are downsampled first are float32, and done in plain torch.
    """
    plain = (params.downsample == 0).nonzero().squeeze(1)
    found = [(images, plain, plain, 1 / 255)]
    if len(plain) < len(images):
        small = params.downsample.nonzero().squeeze(1)
        planes = planes_of(images[small.to(images.device)])
        downsample_(planes, params.downsample[small])
        found.append((planes.permute(1, 2, 3, 0).contiguous(), torch.arange(len(small)), small, 1.0))
    return found


def _blur(unblurred: Tensor, output: Tensor, params: AugmentParams, samples: Tensor) -> None:
    device, size, num_taps = output.device, params.recipe.size, params.recipe.blur_kernel_size
    taps, reach = cut_blur_taps(params.blur_sigma[samples], num_taps)
    taps, reach = taps.to(device), reach.int().to(device)
    half = torch.empty_like(unblurred)
    grid = (3 * len(samples), triton.cdiv(size * size, BLOCK))
    slots = torch.arange(len(samples), device=device)
    common = {"TAPS": num_taps, "BLOCK": BLOCK}
    blur_kernel[grid](unblurred, half, slots, taps, reach, size, ALONG_ROWS=True, **common)
    blur_kernel[grid](half, output, samples.to(device), taps, reach, size, ALONG_ROWS=False, **common)
