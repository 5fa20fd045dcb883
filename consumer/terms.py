"""What an objective is made of: terms, each a head over the towers' features and the loss of what the head says.

Rows are ordered by group, then image, then view. All terms scale their gradients so that DistributedDataParallel's
averaging gives the whole batch's.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.consumer.average import Average
from penstock.consumer.projection_head import Head
from penstock.consumer.text_tower import LanguageHead
from penstock.kernels.collectives import default_group
from penstock.kernels.multipos_clip_loss import multipos_clip_loss
from penstock.kernels.multipos_loss import multipos_loss
from penstock.kernels.multipos_momentum_loss import multipos_momentum_loss


@dataclass(frozen=True, slots=True)
class Features:
    """What the towers say of a rank's batch of G groups of m images in V views."""

    images: Tensor
    """`[G, m, V, hidden]`."""
    texts: Tensor | None = None
    """`[G, text width]`; None without a text tower."""
    teacher: Tensor | None = None
    """`[G, m, V, hidden]` by the encoder's moving average, without gradient; None without one."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What the batch's rows are of. All int64."""

    prompt_ids: Tensor
    """`[G]`."""
    sample_ids: Tensor
    """`[G, m]`: names an image in the whole run. May be on the host: to send it waits, and few terms read it."""
    concepts: Tensor
    """`[G]`: class of each group's prompt, -1 where it has none."""


class Term(Protocol):
    """One part of an objective. A module."""

    reads_text: bool
    """Whether it needs `Features.texts`."""
    has_teacher: bool
    """Whether it needs `Features.teacher`."""

    def __call__(self, features: Features, targets: Targets) -> Tensor:
        """The loss, a scalar."""

    def after_step(self, progress: float) -> None:
        """What follows an optimizer step; `progress` is the share of the run that was done before it, 0 .. 1."""


class ImageContrast(nn.Module):
    """Images against images: StableRep's loss (arXiv 2306.00984, eq. 1-3), or SimCLR's (arXiv 2002.05709, eq. 1).

    Positives are found by label across the batches of all ranks: a prompt that occurs in two groups, here or on
    another rank, is never its own negative.

    Args:
        head: projects features.
        positives: `prompt`: all images and views of a prompt; BatchNorm's views are the images of a group, as in
            StableRep. `image`: the views of one image, which BatchNorm normalises apart, as in SimCLR.
        temperature: divides the cosines; lower sharpens the contrast between near and far negatives.
    """

    reads_text = has_teacher = False

    def __init__(self, head: Head, *, positives: Literal["prompt", "image"], temperature: float) -> None:
        super().__init__()
        self.head = head
        self.positives = positives
        self.temperature = temperature

    def forward(self, features: Features, targets: Targets) -> Tensor:
        """The loss, a scalar."""
        _, num_images, num_views, width = features.images.shape
        rows = features.images.reshape(-1, width)
        if self.positives == "prompt":
            labels = targets.prompt_ids.repeat_interleave(num_images * num_views)
            embeddings = self.head(rows, num_images * num_views)
        else:
            labels = targets.sample_ids.to(rows.device).flatten().repeat_interleave(num_views)
            embeddings = self.head(rows, num_views)
        return multipos_loss(embeddings, labels, temperature=self.temperature, group=default_group())

    def after_step(self, progress: float) -> None:
        """Nothing follows."""


class LanguageContrast(nn.Module):
    """Images against captions: the language part of StableRep+, and with one image a caption CLIP's loss.

    Args:
        head: projects the features of both towers, and scales their cosines.
    """

    reads_text, has_teacher = True, False

    def __init__(self, head: LanguageHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Features, targets: Targets) -> Tensor:
        """The loss, a scalar."""
        if features.texts is None:
            raise ValueError("a contrast with captions needs their features")
        _, num_images, num_views, width = features.images.shape
        return multipos_clip_loss(
            self.head.image_projection(features.images.reshape(-1, width)),
            self.head.text_projection(features.texts),
            targets.prompt_ids.repeat_interleave(num_images * num_views),
            targets.prompt_ids,
            temperature=(-self.head.logit_scale).exp(),
            group=default_group(),
        )

    def after_step(self, progress: float) -> None:
        """Keep the scale in its bounds."""
        self.head.clamp_()


class TeacherContrast(nn.Module):
    """Images against what a moving average of the network says of others: SynCLR's loss (arXiv 2312.17742).

    Args:
        projector: of the student; the teacher's is its average.
        predictor: behind the student's projector.
        decay, decay_end: of the average, as in `Average`.
        temperature: divides the cosines.
    """

    reads_text, has_teacher = False, True

    def __init__(self, projector: Head, predictor: Head, *, decay: float, decay_end: float, temperature: float) -> None:
        super().__init__()
        self.projector = projector
        self.predictor = predictor
        self.teacher_projector = Average(projector, decay, decay_end, batch_statistics=True)
        self.temperature = temperature

    def forward(self, features: Features, targets: Targets) -> Tensor:
        """The loss, a scalar."""
        if features.teacher is None:
            raise ValueError("a contrast with a teacher needs its features")
        _, num_images, num_views, width = features.images.shape
        per_group = num_images * num_views
        student = self.predictor(self.projector(features.images.reshape(-1, width), per_group), per_group)
        with torch.no_grad():
            teacher = self.teacher_projector.module(features.teacher.reshape(-1, width), per_group)
        labels = targets.prompt_ids.repeat_interleave(per_group)
        return multipos_momentum_loss(student, teacher, labels, temperature=self.temperature, group=default_group())

    def after_step(self, progress: float) -> None:
        """The teacher's projector follows the student's."""
        self.teacher_projector.follow(self.projector, progress)


class Classification(nn.Module):
    """Cross-entropy of a linear classifier of the concepts: the supervised baseline of SynCLR's table 5."""

    reads_text = has_teacher = False

    def __init__(self, image_size: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(image_size, num_classes)

    def forward(self, features: Features, targets: Targets) -> Tensor:
        """The loss, a scalar."""
        _, num_images, num_views, width = features.images.shape
        logits: Tensor = self.classifier(features.images.reshape(-1, width)).float()
        return F.cross_entropy(logits, targets.concepts.repeat_interleave(num_images * num_views))

    def after_step(self, progress: float) -> None:
        """Nothing follows."""
