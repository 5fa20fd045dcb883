"""The trainer: one rank's way from the first HELLO to the exported encoder."""

import logging
import math
import os
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from transformers import ViTModel
from transformers.utils import logging as transformers_logging

from penstock.consumer import checkpoint, run_folder
from penstock.consumer.checkpoint import Checkpoint
from penstock.consumer.config import TrainConfig
from penstock.consumer.evaluation import ToyWorldEvaluation
from penstock.consumer.feed import Feed
from penstock.consumer.ledger import Ledger
from penstock.consumer.meter import Meter, Totals
from penstock.consumer.models import ContrastiveModel, ProjectionHead, build_encoder, save_encoder
from penstock.consumer.objectives import StableRep
from penstock.consumer.opening import Opening
from penstock.consumer.optimizer import CosineSchedule, build_optimizer
from penstock.consumer.positions import start_from_sincos
from penstock.consumer.prompts import TicketWriter
from penstock.consumer.ranks import gather_strings
from penstock.consumer.reservoir import Reservoir
from penstock.consumer.stream import GroupStream
from penstock.kernels.augment import augment
from penstock.kernels.augment_params import draw_params
from penstock.protocol.errors import ConfigError, RunError
from penstock.protocol.rank_machine import Patience, RankMachine
from penstock.telemetry.machine import bf16_instructions, usable_cores
from penstock.telemetry.picture import History, draw
from penstock.telemetry.progress import Progress, Snapshot
from penstock.telemetry.summary import Knn, Summary, box

_log = logging.getLogger(__name__)

_REPORT_EVERY_STEPS = 10
"""Steps between two looks at loss and counts. Each look waits for the device and for the other ranks."""
_PICTURED_GROUPS = 6
_PEER_GONE = re.compile(r"[Gg]loo|NCCL|Connection (closed|reset) by peer")
"""How torch.distributed reports, as a plain RuntimeError, that a rank has gone away."""


@dataclass(slots=True)
class _Curves:
    loss: list[tuple[int, float]] = field(default_factory=list)
    knn: list[tuple[int, float]] = field(default_factory=list)


def train(config: TrainConfig, rank: int, opening: Opening, stack: ExitStack, started: float) -> None:
    """Train as `config` says. All ranks call it; rank 0 evaluates, reports and writes what the run leaves behind.

    Args:
        config: the run's settings.
        rank: this process's rank, as its launcher says.
        opening: what was opened while torch was loading.
        stack: closes what the run opens.
        started: `time.perf_counter` at the start of the program.

    Raises:
        PenstockError: anything that the user can mend; see `penstock.protocol.errors`.
    """
    transformers_logging.disable_progress_bar()
    if config.fleet.local_producers and "OMP_NUM_THREADS" not in os.environ:
        # Processes that share cores and threads run many times slower.
        torch.set_num_threads(max(1, usable_cores() - config.fleet.local_producers))
    try:
        accelerator = Accelerator(mixed_precision=_precision(config.mixed_precision))
    except ValueError as error:
        raise ConfigError(f"mixed_precision {config.mixed_precision} is not possible here: {error}") from error
    if accelerator.process_index != rank:
        raise RunError(
            f"the launcher says rank {rank}, Accelerate says {accelerator.process_index}; set RANK for each process"
        )
    try:
        Trainer(config, accelerator, opening, stack, started).run()
    except RuntimeError as error:
        if accelerator.num_processes == 1 or not _PEER_GONE.search(str(error)):
            raise
        raise RunError("another rank has ended; its own message says why") from error
    accelerator.end_training()


def _precision(name: str) -> str:
    """Accelerate's name of the arithmetic that `mixed_precision` asks for."""
    if name != "auto":
        return name
    has_bfloat16 = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else bool(bf16_instructions())
    return "bf16" if has_bfloat16 else "no"


class Trainer:
    """One rank of a run.

    Args:
        config: the run's settings.
        accelerator: of this process.
        opening, stack, started: as in `train`.
    """

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, opening: Opening, stack: ExitStack, started: float
    ) -> None:
        self._config = config
        self._accelerator = accelerator
        self._stack = stack
        self._started = started
        self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
        self._images_per_step = config.groups_per_step * config.generator.images_per_group
        self._prompts, self._socket, self._fleet = opening.prompts, opening.socket, opening.fleet
        accelerator.wait_for_everyone()
        self._folder = run_folder.read(config.run_dir)
        self._stream = self._open_stream()
        set_seed(config.seed)
        model = self._build_model()
        optimizer = build_optimizer(model, weight_decay=config.optimizer.weight_decay, betas=config.optimizer.betas)
        self._model, self._optimizer = accelerator.prepare(model, optimizer)
        self._schedule = CosineSchedule(
            base_lr=config.optimizer.base_lr,
            images_per_step=self._images_per_step,
            warmup_steps=min(config.optimizer.warmup_steps, config.max_steps // 5),
            max_steps=config.max_steps,
        )
        self._objective = StableRep(temperature=config.objective.temperature)
        self._evaluation = self._open_evaluation()
        self._curves = _Curves()

    # --- setting up ---------------------------------------------------------------------------------------------------

    def _open_stream(self) -> GroupStream:
        """Answer producers from now on, on rank 0; the others first learn which model the run uses."""
        config = self._config
        endpoints = gather_strings(self._accelerator, self._socket.endpoint)
        machine = RankMachine(
            run_id=self._folder.run_id,
            incarnation=self._folder.incarnation,
            rank=self._rank,
            endpoints=endpoints,
            model_digest=None if config.generator.model_digest == "first" else config.generator.model_digest,
            patience=Patience(heartbeat_s=config.stream.heartbeat_s, lease_s=config.stream.lease_s),
        )
        watch = self._fleet.check if self._fleet else lambda: None
        stream = GroupStream(self._socket, machine, config.stream, watch)
        self._stack.callback(stream.close, "the run is over")
        if self._accelerator.is_main_process:
            stream.start()
        return stream

    def _build_model(self) -> ContrastiveModel:
        model = self._config.model
        encoder = build_encoder(
            self._config.augment.size,
            model.patch_size,
            model.hidden_size,
            model.num_layers,
            model.num_heads,
            initializer_range=model.initializer_range,
            attention=model.attention,
        )
        if model.positions == "sincos":
            start_from_sincos(encoder)
        head = ProjectionHead(
            model.hidden_size, model.head_hidden_size, model.head_out_size, norm_output=model.head_norm_output
        )
        return ContrastiveModel(encoder, head)

    def _open_evaluation(self) -> ToyWorldEvaluation | None:
        if not self._accelerator.is_main_process or self._config.evaluation.data == "none":
            return None
        return ToyWorldEvaluation(self._config.evaluation, self._config.augment)

    def _open_feed(self, digest: str, resume: Checkpoint | None) -> Feed:
        config = self._config
        common = {
            "run_id": self._folder.run_id,
            "rank": self._rank,
            "world_size": self._world_size,
            "model_digest": digest,
            "num_images": config.generator.images_per_group,
            "guidance_scale": config.generator.guidance_scale,
            "num_inference_steps": config.generator.num_inference_steps,
            "scheduler": config.generator.scheduler,
            "height": config.generator.height,
            "width": config.generator.width,
        }
        return Feed(
            stream=self._stream,
            writer=TicketWriter(self._prompts, config, digest),
            reservoir=Reservoir(
                capacity_groups=config.reservoir.capacity_groups // self._world_size,
                reuse=config.reservoir.reuse,
                seed=(config.seed, self._rank),
            ),
            ledger=self._stack.enter_context(Ledger(self._folder.ledger(self._rank), common)),
            rank=self._rank,
            world_size=self._world_size,
            groups_per_batch=config.groups_per_step // self._world_size,
            window_groups=max(1, config.stream.window_groups // self._world_size),
            resume=resume.feed if resume else None,
            pin_memory=self._accelerator.device.type == "cuda",
        )

    def _agree_on_model(self, resume: Checkpoint | None) -> str:
        """Rank 0 waits for the first producer; the others accept only its model."""
        digest = self._stream.wait_for_model() if self._accelerator.is_main_process else ""
        digest = gather_strings(self._accelerator, digest)[0]
        if resume and digest != resume.model_digest:
            raise RunError(
                f"the run used the generator with digest {resume.model_digest[:12]}, the first producer serves "
                f"{digest[:12]}; start producers of the first"
            )
        if not self._accelerator.is_main_process:
            self._stream.require_model(digest)
            self._stream.start()
        return digest

    # --- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train, evaluate and write what the run leaves behind."""
        resume = checkpoint.load(self._accelerator, self._folder, self._config) if self._config.resume else None
        if resume and resume.prompts_digest != self._prompts.digest:
            raise RunError(f"the captions of {self._config.prompts.source} are not those that the run began with")
        first_step = resume.step if resume else 0
        digest = self._agree_on_model(resume)
        feed = self._open_feed(digest, resume)
        meter = Meter(self._accelerator, self._stream, feed, self._images_per_step)
        before = self._evaluation.test(self._encoder) if self._evaluation and not resume else None
        progress = self._stack.enter_context(Progress()) if self._accelerator.is_main_process else None
        meter.begin()
        for step in range(first_step, self._config.max_steps):
            loss = self._step(feed, step)
            meter.step()
            done = step + 1
            if self._evaluation and done % self._config.evaluation.every_steps == 0:
                self._curves.knn.append((done, self._evaluation.validation(self._encoder)))
            is_last = done == self._config.max_steps
            saves = is_last or done % self._config.checkpoint_every_steps == 0
            if saves or done % _REPORT_EVERY_STEPS == 0 or step == first_step:
                # Before the save: weights that are no numbers must not replace a good checkpoint.
                self._report(done, loss, meter.totals(), progress)
            if saves:
                checkpoint.save(
                    self._accelerator,
                    self._folder,
                    self._config,
                    Checkpoint(done, digest, self._prompts.digest, feed.state),
                )
        totals = meter.totals()
        # Before the last evaluation, so that the producers do not work for nothing while it runs.
        self._stream.close("the run is over")
        if progress:
            progress.close()
        if self._accelerator.is_main_process:
            self._leave_behind(feed, totals, before, self._config.max_steps - first_step)

    def _step(self, feed: Feed, step: int) -> Tensor:
        """One optimizer step; returns its loss, on the device."""
        if self._fleet:
            self._fleet.check()
        batch = feed.batch(step).to(self._accelerator.device)
        _, height, width, _ = batch.images.shape
        params = draw_params(self._config.augment, self._config.seed, batch.sample_ids, batch.echoes, 0, height, width)
        views = augment(batch.images, params)
        num_views = self._config.generator.images_per_group
        embeddings = self._model(views, num_views)
        loss = self._objective(embeddings, batch.prompt_ids)
        self._schedule.apply(self._optimizer, step)
        self._accelerator.backward(loss)
        if self._config.optimizer.max_grad_norm:
            self._accelerator.clip_grad_norm_(self._model.parameters(), self._config.optimizer.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach()

    @property
    def _encoder(self) -> ViTModel:
        encoder: ViTModel = self._accelerator.unwrap_model(self._model).encoder
        return encoder

    def _report(self, step: int, loss: Tensor, totals: Totals, progress: Progress | None) -> None:
        value = float(loss)
        if not math.isfinite(value):
            raise RunError(f"the loss is {value} at step {step}; lower optimizer.base_lr or set --mixed-precision no")
        self._curves.loss.append((step, value))
        if progress is None:
            return
        progress.update(
            Snapshot(
                step=step,
                max_steps=self._config.max_steps,
                images_made=totals.images_made,
                images_trained=totals.images_trained,
                made_per_s=totals.made_per_s,
                trained_per_s=totals.trained_per_s,
                reuse=totals.reuse,
                loss=value,
                knn=self._curves.knn[-1][1] if self._curves.knn else None,
                producers=totals.producers,
                data_wait=totals.data_wait,
            )
        )

    # --- what is left behind ------------------------------------------------------------------------------------------

    def _leave_behind(self, feed: Feed, totals: Totals, before: float | None, num_steps: int) -> None:
        """Encoder, summary and picture, by rank 0. What is counted is this life of the run."""
        save_encoder(self._encoder, self._folder.encoder, self._config.augment)
        summary = Summary(
            run_id=self._folder.run_id,
            seconds=time.perf_counter() - self._started,
            producers=totals.producers_seen,
            world_size=self._world_size,
            steps=num_steps,
            images_generated=totals.images_made,
            images_trained=totals.images_trained,
            reuse_factor=totals.reuse,
            producer_images_per_s=totals.made_per_s,
            trainer_images_per_s=totals.trained_per_s,
            data_wait_fraction=totals.data_wait,
            bytes_received=totals.bytes_received,
            image_bytes_written=self._folder.image_bytes(),
            knn=self._final_knn(before),
        )
        summary.write(self._folder.summary)
        groups = [(group.ticket.recipe.prompt, group.images) for group in feed.newest(_PICTURED_GROUPS)]
        if groups:
            draw(self._folder.picture, groups, History(loss=self._curves.loss, knn=self._curves.knn), summary)
        print(box(summary))

    def _final_knn(self, before: float | None) -> Knn:
        evaluation, config = self._evaluation, self._config.evaluation
        return Knn(
            before=before,
            after=evaluation.test(self._encoder) if evaluation else None,
            raw_scans_after=evaluation.raw_test(self._encoder) if evaluation else None,
            pixels=evaluation.pixels() if evaluation else None,
            k=config.k,
            temperature=config.temperature,
        )
