"""From the autoencoder's answer to uint8 on the host.

Images are resized where they are made, so that only the pixels that are kept cross to the host. There the copy goes
into pinned memory on a stream of its own, while the next batch is made; torch keeps pinned blocks and lends each again
when nobody holds its images any more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pixels:
    """Images of one size."""

    images: NDArray[np.uint8]
    """uint8 [n, H, W, 3]."""
    is_finite: NDArray[np.bool_]
    """bool [n]: whether an image was all finite numbers."""


def to_uint8(images: Tensor, height: int, width: int) -> Tensor:
    """Images in 0..1, [n, 3, h, w], to uint8 [n, height, width, 3]; resized bilinearly and antialiased."""
    images = images.float()
    if images.shape[-2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return images.mul(255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def are_finite(images: Tensor) -> Tensor:
    """Whether each image [n, ...] is all finite numbers: bool [n]."""
    return images.isfinite().flatten(1).all(1)


class HostCopies:
    """Brings images to the host.

    Args:
        device: where they are made.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, images: Sequence[Tensor], is_finite: Sequence[Tensor]) -> Callable[[], Pixels]:
        """Begin to copy blocks of images of one size, one after another; the answer waits for them.

        Args:
            images: uint8 [n_i, H, W, 3] each.
            is_finite: bool [n_i] each.
        """
        if self._stream is None:
            pixels = Pixels(_joined(images).numpy(), _joined(is_finite).numpy())
            return lambda: pixels
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            host_images, host_finite = _pinned_copy(images), _pinned_copy(is_finite)
            done = torch.cuda.Event()
            done.record(self._stream)

        def wait() -> Pixels:
            done.synchronize()
            return Pixels(host_images.numpy(), host_finite.numpy())

        return wait


def _joined(blocks: Sequence[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(list(blocks))


def _pinned_copy(blocks: Sequence[Tensor]) -> Tensor:
    total = sum(len(block) for block in blocks)
    host = torch.empty((total, *blocks[0].shape[1:]), dtype=blocks[0].dtype, pin_memory=True)
    start = 0
    for block in blocks:
        host[start : start + len(block)].copy_(block, non_blocking=True)
        # Its memory must not be given to another tensor before this stream has read it.
        block.record_stream(torch.cuda.current_stream(block.device))
        start += len(block)
    return host
