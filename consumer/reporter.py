"""What a run tells while it goes on: to the record, the progress line and the experiment trackers.

Looking at a loss waits for the device, so it is done every few steps; what happens in between is counted on the device.
"""

import logging
import math
from typing import Self

from accelerate import Accelerator

from penstock.consumer.batch import Batch
from penstock.consumer.config import TrainConfig
from penstock.consumer.evaluation.online import Look
from penstock.consumer.filter_counts import FilterTotals
from penstock.consumer.meter import Totals
from penstock.consumer.ranks import sum_over_ranks
from penstock.consumer.record import Record
from penstock.consumer.tracking import Tracking
from penstock.consumer.training_step import StepLog, TrainingStep
from penstock.consumer.watching.figures import Figures, of_stream
from penstock.protocol.errors import RunError
from penstock.telemetry.progress import Progress, Snapshot
from penstock.telemetry.terminal.view import TerminalView

_log = logging.getLogger(__name__)

_SHOWN_GROUPS = 8


class Reporter:
    """Tells of one rank's steps; only that of rank 0 shows anything. A context manager, which closes what it is given.

    Args:
        config: the run's settings.
        accelerator: of this process.
        train_on: makes the steps, and counts those that were skipped.
        record: of the run; written here.
        tracking: the trackers.
        figures: what they hear of this rank alone.
        progress: what shows the run on the terminal; None on other ranks than 0.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        train_on: TrainingStep,
        record: Record,
        tracking: Tracking,
        figures: Figures,
        progress: Progress | TerminalView | None,
    ) -> None:
        self._config = config
        self._accelerator = accelerator
        self._train_on = train_on
        self._record = record
        self._tracking = tracking
        self._figures = figures
        self._progress = progress
        self._skipped = 0
        self.last_step_counted = True
        """Whether the step that was last reported changed the weights; the same on all ranks."""

    def stepped(self, done: int, batch: Batch) -> None:
        """`done` steps are done, the last of them on `batch`: show some of its groups where it is their turn."""
        if not self._tracking.wants_groups(done):
            return
        num_groups = min(_SHOWN_GROUPS, len(batch.prompts))
        images = batch.images.unflatten(0, (len(batch.prompts), -1))[:num_groups].cpu().numpy()
        self._tracking.groups(list(zip(batch.prompts[:num_groups], images, strict=True)), done)

    def looked(self, done: int, look: Look) -> None:
        """The encoder was measured after `done` steps."""
        self._record.knn.append((done, look.knn))
        self._record.rankme.append((done, look.spread.rankme))
        self._tracking.scalars({"eval/knn": look.knn, "eval/rankme": look.spread.rankme}, done)

    def report(self, done: int, log: StepLog, totals: Totals) -> float:
        """Tell where the run stands after `done` steps. All ranks call it; here the device is waited for.

        Returns the loss, mean over the ranks; no finite number where training goes wrong.

        Raises RunError where too many steps in succession were skipped.
        """
        # Of some objectives a rank knows its own share alone.
        total = sum_over_ranks(self._accelerator, [float(loss) for loss in log.losses.values()])
        num_ranks: int = self._accelerator.num_processes
        losses = {name: loss / num_ranks for name, loss in zip(log.losses, total, strict=True)}
        self._look_at_skipped(done, losses["loss"])
        if math.isfinite(losses["loss"]):
            self._record.loss.append((done, losses["loss"]))
        self._record.totals = totals
        if self._tracking.is_on:
            self._tracking.scalars(
                {
                    **{f"train/{name}": loss for name, loss in losses.items()},
                    "train/lr": log.lr,
                    "train/grad_norm": float(log.grad_norm),
                    "train/steps_skipped": self._record.steps_skipped,
                    **of_stream(totals),
                    **self._figures.since_last(),
                },
                done,
            )
        if self._progress:
            self._progress.update(self._snapshot(done, losses["loss"], totals))
        return losses["loss"]

    def _snapshot(self, done: int, loss: float, totals: Totals) -> Snapshot:
        filtered = FilterTotals.of(totals.filter_counts)
        return Snapshot(
            step=done,
            max_steps=self._config.max_steps,
            images_made=totals.images_made,
            images_trained=totals.images_trained,
            made_per_s=totals.made_per_s,
            trained_per_s=totals.trained_per_s,
            reuse=totals.reuse,
            loss=loss,
            knn=self._record.knn[-1][1] if self._record.knn else None,
            producers=totals.producers,
            data_wait=totals.data_wait,
            rejected=filtered.rejected_fraction if filtered else None,
        )

    def _look_at_skipped(self, done: int, loss: float) -> None:
        """Say how many steps changed nothing since the last look. Raises RunError where too many did in succession."""
        skipped, last = int(self._train_on.num_skipped), int(self._train_on.num_skipped_last)
        self.last_step_counted = last == 0
        if last > self._config.optimizer.max_skipped_steps:
            raise RunError(
                f"the gradients of the last {last} steps were no finite numbers (loss {loss} at step {done}); lower "
                "optimizer.base_lr, set optimizer.max_grad_norm, or set --mixed-precision no"
            )
        if skipped > self._skipped:
            self._record.steps_skipped += skipped - self._skipped
            _log.warning(
                "step %d: %d of the last steps changed nothing, as their gradients were no finite numbers; %d in all",
                *(done, skipped - self._skipped, self._record.steps_skipped),
            )
            self._skipped = skipped

    def close(self) -> None:
        """The steps are over."""
        if self._progress:
            self._progress.close()
        self._tracking.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
