"""From groups to a batch: the one copy of pixels on the trainer's host."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from penstock.consumer.reservoir import Use
from penstock.protocol.limits import MAX_IMAGES_PER_GROUP
from penstock.protocol.tickets import Ticket, prompt_id


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step trains on. Rows are ordered by group: of group g, the k-th image that is used is row g·m + k.

    m is the number of images of a use, which may be fewer than were made for the ticket.
    """

    images: torch.Tensor
    """uint8 [G·m, H, W, 3]."""
    prompt_ids: torch.Tensor
    """int64 [G]: groups of one prompt share it."""
    sample_ids: torch.Tensor
    """int64 [G, m]: names an image in the whole run. Stays on the host, where augmentations are drawn."""
    echoes: torch.Tensor
    """int64 [G·m]: earlier uses of the image's group. Stays on the host."""
    indices: tuple[int, ...]
    """Global indices of the groups, length G."""
    prompts: tuple[str, ...]
    """Captions of the groups, length G."""
    concepts: torch.Tensor
    """int64 [G]: class of each group's prompt, -1 where it has none."""
    token_ids: torch.Tensor | None
    """int64 [G, L]: the groups' captions; None where nothing reads them."""

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`; the copy of pinned memory does not wait."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.prompt_ids.to(device, non_blocking=True),
            self.sample_ids,
            self.echoes,
            self.indices,
            self.prompts,
            self.concepts.to(device, non_blocking=True),
            None if self.token_ids is None else self.token_ids.to(device, non_blocking=True),
        )


@dataclass(frozen=True, slots=True)
class Reader:
    """What a batch says of its captions."""

    concept: Callable[[Ticket], int] = lambda ticket: -1
    """Class of a ticket's prompt, -1 where it has none."""
    tokenize: Callable[[Sequence[str]], torch.Tensor] | None = None
    """Captions to int64 [G, L]; None where nothing reads them."""


NO_READER = Reader()
"""Says nothing of the captions."""


def collate(
    uses: Sequence[Use], images: Sequence[Sequence[int]], *, pin_memory: bool, reader: Reader = NO_READER
) -> Batch:
    """Copy the groups' images into one batch; nothing else on the trainer's host copies pixels.

    Args:
        uses: of groups whose images have the same shape [H, W, 3].
        images: which images of each group, as many of each.
        pin_memory: whether the batch goes to a GPU, so that the copy there need not be waited for.
        reader: what else is wanted of the captions.
    """
    height, width, channels = uses[0].group.images.shape[1:]
    num_images = len(images[0])
    shape = (len(uses), num_images, height, width, channels)
    if pin_memory:
        images_GmHWC = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
    else:
        # NumPy asks the kernel for huge pages, torch does not: new memory is filled four times as fast.
        images_GmHWC = torch.from_numpy(np.empty(shape, np.uint8))
    for rows_mHWC, use, chosen in zip(images_GmHWC.numpy(), uses, images, strict=True):
        # Image by image: choosing by an index array would be a copy before the copy.
        for row_HWC, image in zip(rows_mHWC, chosen, strict=True):
            np.copyto(row_HWC, use.group.images[image])
    tickets = [use.group.ticket for use in uses]
    prompts = [ticket.recipe.prompt for ticket in tickets]
    indices = torch.tensor([ticket.index for ticket in tickets])
    sample_ids = indices[:, None] * MAX_IMAGES_PER_GROUP + torch.tensor([list(chosen) for chosen in images])
    return Batch(
        images=images_GmHWC.flatten(0, 1),
        prompt_ids=torch.tensor([prompt_id(prompt) for prompt in prompts]),
        sample_ids=sample_ids,
        echoes=torch.tensor([use.echo for use in uses]).repeat_interleave(num_images),
        indices=tuple(ticket.index for ticket in tickets),
        prompts=tuple(prompts),
        concepts=torch.tensor([reader.concept(ticket) for ticket in tickets]),
        token_ids=reader.tokenize(prompts) if reader.tokenize else None,
    )
