"""Where images leave an engine: resized, made uint8, looked at, and brought to the host.

Images are resized where they are made, so that only the pixels that are kept cross to the host. There the copy goes
into pinned memory on a stream of its own, while the next batch is made; torch keeps pinned blocks and lends each again
when nobody holds its images any more.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from penstock.producer.diversity import DiversityWatch, Features
from penstock.producer.engine import Made, Pending
from penstock.producer.work import Work
from penstock.protocol.errors import ModelError
from penstock.protocol.tickets import Recipe


class Outlet:
    """Makes groups of an engine's images.

    Args:
        device: where they are made.
        features: what their diversity is measured by.
        work: gets that measure.
    """

    def __init__(self, device: torch.device, features: Features, work: Work) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._features = features
        self._watch = DiversityWatch()
        self._work = work

    def begin(self, recipes: Sequence[Recipe], blocks: Sequence[Tensor], flops: float | None = None) -> Pending:
        """Begin to bring groups to the host. The answer waits; a group that is not all numbers is a ModelError in it.

        Args:
            recipes: of all groups; they agree in size.
            flops: floating point operations that they took, where that is known.
            blocks: their images, one after another: [n_i, 3, h, w] each; 0 is black, 1 is white.
        """
        height, width = recipes[0].height, recipes[0].width
        shades = [block.clamp(0, 1) for block in blocks]
        wait = self._copy(
            [to_uint8(block, height, width) for block in shades],
            # Of what was made: clamped, an infinity would pass for white.
            [block.isfinite().flatten(1).all(1) for block in blocks],
            [self._features(block) for block in shades],
        )

        def groups() -> list[Made]:
            images, is_finite, features = wait()
            made: list[Made] = []
            start = 0
            for recipe in recipes:
                here = slice(start, start := start + recipe.num_images)
                if is_finite[here].all():
                    self._watch.add(recipe.prompt, features[here])
                    made.append(images[here])
                else:
                    made.append(ModelError("the model made pixels that are not finite numbers; try --dtype float32"))
            self._work.images += len(images)
            if flops is not None:
                self._work.flops = (self._work.flops or 0.0) + flops
            self._work.diversity = self._watch.share
            return made

        return groups

    def _copy(self, *columns: Sequence[Tensor]) -> Callable[[], list[NDArray[Any]]]:
        """Begin to copy blocks [n_i, ...], which become one array [n, ...] a column; the answer waits for them."""
        if self._stream is None:
            arrays = [torch.cat(list(blocks)).numpy() for blocks in columns]
            return lambda: arrays
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            copies = [_pinned_copy(blocks) for blocks in columns]
            done = torch.cuda.Event()
            done.record(self._stream)

        def wait() -> list[NDArray[Any]]:
            done.synchronize()
            return [copy.numpy() for copy in copies]

        return wait


def to_uint8(images: Tensor, height: int, width: int) -> Tensor:
    """Images in 0..1, [n, 3, h, w], to uint8 [n, height, width, 3]; resized bilinearly and antialiased."""
    images = images.float()
    if images.shape[-2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return images.mul(255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


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
