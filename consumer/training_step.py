"""One optimizer step: augment, encode, compare, differentiate, step; and what guards it.

A batch may go through the towers in parts, each with a fraction of the memory, and the loss still sees it whole
(`cached_features.py`).

A step whose gradients are no finite numbers moves no weight and no moment; averages go on towards the weights as they
are. The host does not wait for the device to learn of it: the fused AdamW reads a flag there, as it does of
Accelerate's scaler with fp16; the count of such steps is read where the loss is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from penstock.consumer.batch import Batch
from penstock.consumer.cached_features import CachedFeatures
from penstock.consumer.config import TrainConfig
from penstock.consumer.network import Network
from penstock.consumer.optimizer import CosineSchedule
from penstock.consumer.step_clock import StepClock
from penstock.consumer.terms import Targets
from penstock.kernels.augment import augment
from penstock.kernels.augment_params import draw_params
from penstock.kernels.collectives import default_group
from penstock.telemetry.recorder import Recorder

_BUCKET_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class StepLog:
    """What a step tells of itself; tensors on the device, so that nobody waits for it."""

    losses: dict[str, Tensor]
    """`loss` and its parts."""
    lr: float
    grad_norm: Tensor
    """Before clipping; with fp16 as the scaler's scale leaves it."""


class TrainingStep:
    """Makes the steps of one rank.

    Args:
        config: the run's settings.
        accelerator: of this process.
        model: a `Network` as `accelerator.prepare` gives it back.
        optimizer: likewise.
        schedule: of the learning rate.
        recorder: takes note of the parts of each step; without one the step has its own.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: CosineSchedule,
        recorder: Recorder | None = None,
    ) -> None:
        self._config = config
        self._accelerator = accelerator
        self._model = model
        self._network: Network = accelerator.unwrap_model(model)
        self._optimizer = optimizer
        self._schedule = schedule
        self._parameters = [p for p in self._network.parameters() if p.requires_grad]
        self._num_parts = config.optimizer.grad_accum_steps
        self._clock = StepClock(recorder or Recorder(), accelerator.device)
        self.num_skipped = torch.zeros((), device=accelerator.device)
        """Steps that changed nothing, as their gradients were no numbers."""
        self.num_skipped_last = torch.zeros((), device=accelerator.device)
        """The last of them, in succession."""

    def __call__(self, batch: Batch, step: int) -> StepLog:
        """Train on the batch of optimizer step `step`."""
        self._clock.begin()
        views = self._augment(batch)
        self._clock.lap("augment")
        targets = Targets(batch.prompt_ids, batch.sample_ids, batch.concepts)
        if self._num_parts == 1:
            losses = self._model(views, batch.token_ids, targets)
            self._clock.lap("forward")
            self._accelerator.backward(losses["loss"])
        else:
            losses = self._in_parts(views, batch.token_ids, targets)
        self._clock.lap("backward")
        lr = self._schedule.apply(self._optimizer, step)
        grad_norm = self._step()
        self._network.after_step(step / self._config.max_steps)
        self._clock.lap("optimizer")
        self._clock.end()
        return StepLog({name: loss.detach() for name, loss in losses.items()}, lr, grad_norm)

    def _augment(self, batch: Batch) -> Tensor:
        """`[G * m * V, 3, S, S]`, every view by draws of its own."""
        num_views = self._config.objective.num_views
        first = self._view(batch, 0)
        if num_views == 1:
            return first
        # Into their place, as all of them beside their stack would be the most memory of a step.
        views = first.new_empty(len(first), num_views, *first.shape[1:])
        views[:, 0] = first
        for view in range(1, num_views):
            views[:, view] = self._view(batch, view)
        return views.flatten(0, 1)

    def _view(self, batch: Batch, view: int) -> Tensor:
        """View number `view` of every image, `[G * m, 3, S, S]`."""
        config = self._config
        _, height, width, _ = batch.images.shape
        sample_ids = batch.sample_ids.flatten()
        params = draw_params(config.augment, config.seed, sample_ids, batch.echoes, view, height, width)
        return augment(batch.images, params)

    # --- in parts -----------------------------------------------------------------------------------------------------

    def _in_parts(self, views: Tensor, token_ids: Tensor | None, targets: Targets) -> dict[str, Tensor]:
        """Losses of the whole batch, and its gradients averaged over the ranks, by parts of it."""
        network, autocast = self._network, self._accelerator.autocast
        images = CachedFeatures(network.encode, views, self._num_parts, autocast)
        texts = None
        if token_ids is not None:
            texts = CachedFeatures(network.encode_texts, token_ids, self._num_parts, autocast)
        with autocast():
            teacher = None
            if network.teacher is not None:
                teacher = torch.cat([network.teach(part) for part in views.chunk(self._num_parts)])
            losses = network.losses(images.features, texts.features if texts else None, teacher, targets)
        self._clock.lap("forward")
        self._accelerator.backward(losses["loss"])
        images.backward()
        if texts is not None:
            texts.backward()
        self._average_gradients()
        return losses

    def _average_gradients(self) -> None:
        """What DistributedDataParallel does where it sees the whole backward pass, bucket by bucket."""
        group = default_group()
        if group is None:
            return
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat, group=group)
            flat /= group.size()
            for gradient, mean in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    # --- the optimizer ------------------------------------------------------------------------------------------------

    def _step(self) -> Tensor:
        """Clip, look whether the gradients are numbers, and step; returns their norm."""
        max_norm = self._config.optimizer.max_grad_norm
        grad_norm: Tensor
        if max_norm:
            grad_norm = self._accelerator.clip_grad_norm_(self._parameters, max_norm)
        else:
            grad_norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        is_bad = (~grad_norm.isfinite()).float()
        if self._accelerator.scaler is None:
            # As GradScaler tells it; Accelerate's wrapper hides the optimizer itself.
            inner: Any = getattr(self._optimizer, "optimizer", self._optimizer)
            inner.found_inf = is_bad
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.num_skipped += is_bad
        self.num_skipped_last = (self.num_skipped_last + 1) * is_bad
        return grad_norm


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The gradients in their order, in buckets of one dtype and of some megabytes."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        is_full = sum(g.nbytes for g in bucket) >= _BUCKET_BYTES
        if bucket and (is_full or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
