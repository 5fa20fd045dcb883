"""The Triton kernels of the augmentation; `augment_triton.py` launches them and says how they share the work.

A program does BLOCK pixels of one sample, taken in reading order, so a branch on what is drawn for the sample
is one for the whole program. All arithmetic is float32; where positions need float64 (`resample_taps`), torch
forms them before. `order [B, 4]`, `factors [B, 4]`, `rows [B, S]`, `row_taps [B, S, ROW_TAPS]`, the same for
columns: as in `AugmentParams` and `resample_taps`, contiguous. Program (i, tile) takes sample `samples[i]`, whose
pixels are image `positions[i]` of `images [.., H, W, 3]`, in units of `scale`; both are int64, so no offset wraps.
"""

import triton
import triton.language as tl

from penstock.kernels.augment_params import CONTRAST, HUE, SATURATION
from penstock.kernels.augment_reference import LUMA

# A kernel sees no other globals than these.
_CONTRAST, _SATURATION, _HUE = tl.constexpr(CONTRAST), tl.constexpr(SATURATION), tl.constexpr(HUE)
_LUMA_RED, _LUMA_GREEN, _LUMA_BLUE = (tl.constexpr(weight) for weight in LUMA)


@triton.jit
def _luma(red, green, blue):
    return red * _LUMA_RED + green * _LUMA_GREEN + blue * _LUMA_BLUE


@triton.jit
def _clamp(value):
    return tl.minimum(tl.maximum(value, 0.0), 1.0)


@triton.jit
def _hue_channel(value, chroma, hue_6, offset):
    turned = hue_6 + offset
    turned -= 6.0 * tl.floor(turned / 6.0)
    return value - _clamp(tl.minimum(turned, 4.0 - turned)) * chroma


@triton.jit
def _turn_hue(red, green, blue, turn):
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    per_chroma = 1.0 / tl.where(chroma > 0, chroma, 1.0)
    from_green, from_blue = (blue - red) * per_chroma + 2.0, (red - green) * per_chroma + 4.0
    hue_6 = tl.where(value == red, (green - blue) * per_chroma, tl.where(value == green, from_green, from_blue))
    hue_6 += 6.0 * turn
    return (
        _hue_channel(value, chroma, hue_6, 5.0),
        _hue_channel(value, chroma, hue_6, 3.0),
        _hue_channel(value, chroma, hue_6, 1.0),
    )


@triton.jit
def _jitter(red, green, blue, step, factor, mean):
    """One step of the colour jitter; `step` and `factor` are the sample's, `mean` its grey for the contrast."""
    if step == _HUE:
        if factor != 0.0:
            red, green, blue = _turn_hue(red, green, blue, factor)
    else:
        gray = _luma(red, green, blue)
        base = tl.where(step == _CONTRAST, mean, tl.where(step == _SATURATION, gray, 0.0)) * (1.0 - factor)
        red, green, blue = _clamp(red * factor + base), _clamp(green * factor + base), _clamp(blue * factor + base)
    return red, green, blue


@triton.jit
def _resample(
    image_ptr, rows_ptr, row_taps_ptr, columns_ptr, column_taps_ptr, scale, y, x, inside, height, width,
    ROW_TAPS: tl.constexpr, COLUMN_TAPS: tl.constexpr,
):  # fmt: skip
    """Red, green and blue at the output pixels (y, x) of one image `[H, W, 3]`; pointers are the sample's."""
    first_row = tl.load(rows_ptr + y, mask=inside, other=0)
    first_column = tl.load(columns_ptr + x, mask=inside, other=0)
    red = tl.zeros(y.shape, tl.float32)
    green = tl.zeros(y.shape, tl.float32)
    blue = tl.zeros(y.shape, tl.float32)
    # Not `static_range`: rows times columns of taps, unrolled, spill and compile for minutes at 16 by 16.
    for j in range(ROW_TAPS):
        # A tap outside the image has weight zero.
        row = tl.minimum(tl.maximum(first_row + j, 0), height - 1)
        row_weight = tl.load(row_taps_ptr + y * ROW_TAPS + j, mask=inside, other=0.0) * scale
        for i in range(COLUMN_TAPS):
            column = tl.minimum(tl.maximum(first_column + i, 0), width - 1)
            weight = tl.load(column_taps_ptr + x * COLUMN_TAPS + i, mask=inside, other=0.0) * row_weight
            pixel_ptr = image_ptr + (row * width + column) * 3
            red += weight * tl.load(pixel_ptr, mask=inside, other=0).to(tl.float32)
            green += weight * tl.load(pixel_ptr + 1, mask=inside, other=0).to(tl.float32)
            blue += weight * tl.load(pixel_ptr + 2, mask=inside, other=0).to(tl.float32)
    return red, green, blue


@triton.jit
def mean_kernel(
    images_ptr, positions_ptr, samples_ptr, sums_ptr, rows_ptr, row_taps_ptr, columns_ptr, column_taps_ptr,
    order_ptr, factors_ptr, scale, height, width, size, num_tiles,
    ROW_TAPS: tl.constexpr, COLUMN_TAPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`sums [B, num_tiles]`: the grey of each tile as the contrast step finds it."""
    position = tl.load(positions_ptr + tl.program_id(0))
    sample = tl.load(samples_ptr + tl.program_id(0))
    offs = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offs < size * size
    red, green, blue = _resample(
        images_ptr + position * height * width * 3, rows_ptr + sample * size, row_taps_ptr + sample * size * ROW_TAPS,
        columns_ptr + sample * size, column_taps_ptr + sample * size * COLUMN_TAPS, scale,
        offs // size, offs % size, inside, height, width, ROW_TAPS, COLUMN_TAPS,
    )  # fmt: skip
    before = True
    for number in tl.static_range(4):
        step = tl.load(order_ptr + sample * 4 + number)
        before = before & (step != _CONTRAST)
        if before:
            red, green, blue = _jitter(red, green, blue, step, tl.load(factors_ptr + sample * 4 + step), 0.0)
    gray = tl.where(inside, _luma(red, green, blue), 0.0)
    tl.store(sums_ptr + sample * num_tiles + tl.program_id(1), tl.sum(gray, axis=0))


@triton.jit
def total_kernel(sums_ptr, means_ptr, samples_ptr, num_tiles, num_pixels, TILES: tl.constexpr):
    """`means [B]` of `sums [B, num_tiles]`, a program a sample: in an order that no other sample can change."""
    sample = tl.load(samples_ptr + tl.program_id(0))
    tile = tl.arange(0, TILES)
    total = tl.sum(tl.load(sums_ptr + sample * num_tiles + tile, mask=tile < num_tiles, other=0.0), axis=0)
    tl.store(means_ptr + sample, total / num_pixels)


@triton.jit
def view_kernel(
    images_ptr, positions_ptr, samples_ptr, output_ptr, unblurred_ptr, slots_ptr, means_ptr,
    rows_ptr, row_taps_ptr, columns_ptr, column_taps_ptr, order_ptr, factors_ptr, grayscale_ptr, scale,
    height, width, size, mean_r, mean_g, mean_b, std_r, std_g, std_b,
    ROW_TAPS: tl.constexpr, COLUMN_TAPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Everything but the blur, into `output [B, 3, S, S]`, or into `unblurred [n, 3, S, S]` where the slot is >= 0."""
    position = tl.load(positions_ptr + tl.program_id(0))
    sample = tl.load(samples_ptr + tl.program_id(0))
    offs = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offs < size * size
    red, green, blue = _resample(
        images_ptr + position * height * width * 3, rows_ptr + sample * size, row_taps_ptr + sample * size * ROW_TAPS,
        columns_ptr + sample * size, column_taps_ptr + sample * size * COLUMN_TAPS, scale,
        offs // size, offs % size, inside, height, width, ROW_TAPS, COLUMN_TAPS,
    )  # fmt: skip
    mean = tl.load(means_ptr + sample)
    for number in tl.static_range(4):
        step = tl.load(order_ptr + sample * 4 + number)
        red, green, blue = _jitter(red, green, blue, step, tl.load(factors_ptr + sample * 4 + step), mean)
    if tl.load(grayscale_ptr + sample) != 0:
        gray = _luma(red, green, blue)
        red, green, blue = gray, gray, gray
    red, green, blue = (red - mean_r) / std_r, (green - mean_g) / std_g, (blue - mean_b) / std_b
    slot = tl.load(slots_ptr + sample)
    plane = size * size
    if slot >= 0:
        target_ptr = unblurred_ptr + slot * 3 * plane + offs
        tl.store(target_ptr, red, mask=inside)
        tl.store(target_ptr + plane, green, mask=inside)
        tl.store(target_ptr + 2 * plane, blue, mask=inside)
    else:
        view_ptr = output_ptr + sample * 3 * plane + offs
        tl.store(view_ptr, red, mask=inside)
        tl.store(view_ptr + plane, green, mask=inside)
        tl.store(view_ptr + 2 * plane, blue, mask=inside)


@triton.jit
def blur_kernel(
    source_ptr, target_ptr, targets_ptr, taps_ptr, reach_ptr, size,
    TAPS: tl.constexpr, ALONG_ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One axis of the blur of `source [n, 3, S, S]` into the images `targets [n]` of `target [.., 3, S, S]`."""
    slot, channel = tl.program_id(0) // 3, tl.program_id(0) % 3
    offs = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offs < size * size
    y, x = offs // size, offs % size
    plane_ptr = source_ptr + tl.program_id(0).to(tl.int64) * size * size
    reach = tl.load(reach_ptr + slot)
    blurred = tl.zeros((BLOCK,), tl.float32)
    # Not a `range`: the interpreter cannot make one from loaded numbers with numpy 2.4.
    shift = -reach
    while shift <= reach:
        weight = tl.load(taps_ptr + slot * TAPS + TAPS // 2 + shift)
        at = tl.abs((x if ALONG_ROWS else y) + shift)
        at = size - 1 - tl.abs(size - 1 - at)
        index = y * size + at if ALONG_ROWS else at * size + x
        blurred += weight * tl.load(plane_ptr + index, mask=inside, other=0.0)
        shift += 1
    target = tl.load(targets_ptr + slot) * 3 + channel
    tl.store(target_ptr + target * size * size + offs, blurred, mask=inside)
