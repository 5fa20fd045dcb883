"""What training minimises: functions of the head's outputs and of what the images were made from."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from penstock.kernels.collectives import default_group
from penstock.kernels.multipos_loss import multipos_loss


class Objective(Protocol):
    """A loss over the batches of all ranks, its gradients scaled for DistributedDataParallel's averaging."""

    def __call__(self, embeddings: Tensor, prompt_ids: Tensor) -> Tensor:
        """`embeddings [G * m, D]`, group after group, and int64 `prompt_ids [G]` to a scalar."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StableRep:
    """StableRep's contrast (arXiv 2306.00984): the images of a prompt are each other's positives.

    Positives are found by prompt id across the batches of all ranks, so a prompt that occurs in two groups,
    here or on another rank, is never its own negative.
    """

    temperature: float = 0.1
    """Divides the cosines; lower sharpens the contrast between near and far negatives."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")

    def __call__(self, embeddings: Tensor, prompt_ids: Tensor) -> Tensor:
        """The loss, the same number on every rank. Raises ValueError where the rows are not whole groups."""
        num_groups = len(prompt_ids)
        if num_groups == 0 or len(embeddings) % num_groups:
            raise ValueError(f"embeddings must be whole groups, got {len(embeddings)} rows for {num_groups} prompt ids")
        labels = prompt_ids.repeat_interleave(len(embeddings) // num_groups)
        return multipos_loss(embeddings, labels, temperature=self.temperature, group=default_group())
