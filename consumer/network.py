"""The trained network: the towers, the objective's heads, and the averages that follow them.

One module, so that DistributedDataParallel wraps a single forward pass and a checkpoint is one file of weights. Its
parts can also be called one by one, so that a batch may go through the towers in pieces (`training_step.py`).
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from penstock.consumer.average import Average
from penstock.consumer.encoders import image_feature
from penstock.consumer.objectives import Objective
from penstock.consumer.terms import Features, LanguageContrast, Targets
from penstock.consumer.text_tower import LanguageHead, encode_text


class Network(nn.Module):
    """Encoder, text tower and objective.

    Args:
        encoder: pixels to what `image_feature` reads, the CLS token of a ViT.
        objective: heads and loss.
        text_tower: where the objective reads captions.
        teacher: average of the encoder, where the objective has one.
        average: another average of the encoder, which is evaluated and exported in its place; None for none.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        objective: Objective,
        text_tower: PreTrainedModel | None = None,
        teacher: Average | None = None,
        average: Average | None = None,
    ) -> None:
        super().__init__()
        if (text_tower is None) == objective.reads_text:
            raise ValueError("there must be a text tower where the objective reads captions, and only there")
        if (teacher is None) == objective.has_teacher:
            raise ValueError("there must be a teacher where the objective has one, and only there")
        self.encoder = encoder
        self.objective = objective
        self.text_tower = text_tower
        self.teacher = teacher
        self.average = average

    def forward(self, pixel_values: Tensor, token_ids: Tensor | None, targets: Targets) -> dict[str, Tensor]:
        """The loss and its parts, as `Objective` names them.

        Args:
            pixel_values: `[G * m * V, 3, S, S]`, ordered by group, then image, then view.
            token_ids: int64 `[G, L]` of the groups' captions; None without a text tower.
            targets: of the rows.
        """
        texts = None if token_ids is None else self.encode_texts(token_ids)
        teacher = None if self.teacher is None else self.teach(pixel_values)
        return self.losses(self.encode(pixel_values), texts, teacher, targets)

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Features `[n, hidden]` of pixels `[n, 3, S, S]`."""
        return image_feature(self.encoder, pixel_values)

    def encode_texts(self, token_ids: Tensor) -> Tensor:
        """Features `[G, width]` of tokens `[G, L]`."""
        if self.text_tower is None:
            raise ValueError("this network has no text tower")
        return encode_text(self.text_tower, token_ids)

    @torch.no_grad()
    def teach(self, pixel_values: Tensor) -> Tensor:
        """The teacher's features `[n, hidden]` of pixels `[n, 3, S, S]`."""
        if self.teacher is None:
            raise ValueError("this network has no teacher")
        return image_feature(self.teacher.module, pixel_values)

    def losses(
        self, images: Tensor, texts: Tensor | None, teacher: Tensor | None, targets: Targets
    ) -> dict[str, Tensor]:
        """The loss and its parts from the towers' features, `[G * m * V, hidden]` and `[G, width]`.

        Raises ValueError where the images are not whole groups.
        """
        num_groups, num_images = targets.sample_ids.shape
        if num_groups == 0 or len(images) % (num_groups * num_images):
            raise ValueError(f"rows must be whole groups, got {len(images)} for {num_groups} groups of {num_images}")
        shape = (num_groups, num_images, -1, images.shape[1])
        features = Features(images.view(shape), texts, None if teacher is None else teacher.view(shape))
        losses: dict[str, Tensor] = self.objective(features, targets)
        return losses

    def after_step(self, progress: float) -> None:
        """What follows an optimizer step; `progress` is the share of the run that was done before."""
        self.objective.after_step(progress)
        for average in (self.teacher, self.average):
            if average is not None:
                average.follow(self.encoder, progress)

    @property
    def language(self) -> LanguageHead | None:
        """What projects images and captions into one space; None without a text tower."""
        heads = [term.head for term in self.objective.terms.values() if isinstance(term, LanguageContrast)]
        return heads[0] if heads else None

    @property
    def exported(self) -> PreTrainedModel:
        """The encoder that is evaluated and kept: the average where there is one."""
        kept: PreTrainedModel = self.encoder if self.average is None else self.average.module
        return kept
