"""From groups to a batch: the one copy of pixels on the trainer's host."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from penstock.consumer.reservoir import Use
from penstock.protocol.limits import MAX_IMAGES_PER_GROUP
from penstock.protocol.tickets import prompt_id


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step trains on. Rows are ordered by group: image k of group g is row g·m + k."""

    images: torch.Tensor
    """uint8 [G·m, H, W, 3]."""
    prompt_ids: torch.Tensor
    """int64 [G]: groups of one prompt share it."""
    sample_ids: torch.Tensor
    """int64 [G·m]: names an image in the whole run. Stays on the host, where augmentations are drawn."""
    echoes: torch.Tensor
    """int64 [G·m]: earlier uses of the image. Stays on the host."""
    indices: tuple[int, ...]
    """Global indices of the groups, length G."""

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`; the copy of pinned memory does not wait."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.prompt_ids.to(device, non_blocking=True),
            self.sample_ids,
            self.echoes,
            self.indices,
        )


def collate(uses: Sequence[Use], *, pin_memory: bool) -> Batch:
    """Copy the groups' images into one batch. All groups have the same shape [m, H, W, 3]."""
    num_images, height, width, _ = uses[0].group.images.shape
    images_GmHWC = torch.empty((len(uses), num_images, height, width, 3), dtype=torch.uint8, pin_memory=pin_memory)
    np.stack([use.group.images for use in uses], out=images_GmHWC.numpy())
    tickets = [use.group.ticket for use in uses]
    indices = torch.tensor([ticket.index for ticket in tickets])
    sample_ids = indices[:, None] * MAX_IMAGES_PER_GROUP + torch.arange(num_images)
    return Batch(
        images=images_GmHWC.flatten(0, 1),
        prompt_ids=torch.tensor([prompt_id(ticket.recipe.prompt) for ticket in tickets]),
        sample_ids=sample_ids.flatten(),
        echoes=torch.tensor([use.echo for use in uses]).repeat_interleave(num_images),
        indices=tuple(ticket.index for ticket in tickets),
    )
