"""The trainer: one rank's way from the first HELLO to the exported encoder."""

import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from socket import gethostname

from accelerate import Accelerator
from accelerate.utils import set_seed

from penstock.config.process import shown_width
from penstock.consumer import checkpoint, engines, run_folder
from penstock.consumer.building import build_adamw, build_network, build_schedule, build_tokenizer
from penstock.consumer.checkpoint import Checkpoint
from penstock.consumer.config import TrainConfig
from penstock.consumer.engines import Engines
from penstock.consumer.evaluation.online import ToyWorldEvaluation
from penstock.consumer.feed_state import FeedState
from penstock.consumer.intake import open_batches, open_ledger, open_stream
from penstock.consumer.joining import naming_lost_ranks, open_accelerator
from penstock.consumer.ledger import Ledger
from penstock.consumer.ledger_schema import Marks
from penstock.consumer.meter import Meter
from penstock.consumer.opening import Opening, open_prompts
from penstock.consumer.outcome import export, leave_behind
from penstock.consumer.prefetch import Prefetcher
from penstock.consumer.prompts.source import num_captions
from penstock.consumer.ranks import gather_strings
from penstock.consumer.record import Record
from penstock.consumer.reporter import Reporter
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.step_flops import device_flops_per_s, flops_per_step
from penstock.consumer.stream import GroupStream
from penstock.consumer.tracking import Tracking, accelerator_arguments
from penstock.consumer.training_step import TrainingStep
from penstock.consumer.watch import ProgressWatch
from penstock.consumer.watching.figures import Figures
from penstock.consumer.watching.health import rank_health
from penstock.consumer.watching.metrics import RankMetrics
from penstock.consumer.watching.observed import Observed
from penstock.consumer.watching.run_trace import RunTrace
from penstock.consumer.watching.views import Views
from penstock.protocol.addresses import check_reachable
from penstock.telemetry.recorder import Recorder
from penstock.telemetry.summary import BOX_WIDTH, box

_REPORT_EVERY_STEPS = 10
"""Steps between two looks at loss and counts. Each look waits for the device and for the other ranks."""


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
    accelerator = open_accelerator(config, rank, **accelerator_arguments(config.tracking, config.run_dir))
    with naming_lost_ranks(accelerator):
        Trainer(config, accelerator, opening, stack, started).run()
    accelerator.end_training()


def answer_producers(
    config: TrainConfig,
    accelerator: Accelerator,
    opening: Opening,
    folder: RunFolder,
    stack: ExitStack,
    recorder: Recorder,
    resume: Checkpoint | None = None,
    *,
    traces: bool = False,
) -> GroupStream:
    """The rank's stream, which answers producers from now on on rank 0; the others first learn of the run's engines.

    `stack` closes it, with a word to the producers why; `traces` asks them for their events. Raises ConfigError where
    a rank's address reaches no producer, or two ranks have the same.
    """
    rank = accelerator.process_index
    endpoints = gather_strings(accelerator, opening.socket.endpoint)
    keys = gather_strings(accelerator, opening.socket.key)
    hosts = gather_strings(accelerator, gethostname())
    if not config.stream.advertise:
        check_reachable(endpoints, hosts)
    expects, real = engines.expected(config, opening.real, resume)
    watch = opening.fleet.check if opening.fleet else lambda kind: None
    stream = open_stream(
        config,
        folder,
        opening.socket,
        rank,
        endpoints,
        keys if all(keys) else (),
        expects,
        watch,
        real,
        traces=traces,
        recorder=recorder,
    )

    def say_goodbye(kind: object, error: BaseException | None, trace: object) -> None:
        stream.close(f"rank {rank} ends early: {str(error) or type(error).__name__}" if error else "the run is over")

    stack.push(say_goodbye)
    if accelerator.is_main_process:
        stream.start()
    return stream


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
        self._images_per_step = config.groups_per_step * config.images_per_use
        self._real, self._fleet = opening.real, opening.fleet
        accelerator.wait_for_everyone()
        # Rank 0 has asked for them, and kept them in the folder, before it came here.
        self._prompts = opening.prompts or open_prompts(config, opening.real)
        self._folder = run_folder.read(config.run_dir)
        self._resume = self._read_checkpoint() if config.resume else None
        self._record = self._resume.record if self._resume else Record()
        self._earlier_hardest = tuple(self._record.hardest_prompts)
        # Before the stream, so that it is written after the last word of the producers.
        self._trace = stack.enter_context(RunTrace(config.trace, self._folder, self._rank, self._world_size))
        self._trace.align(accelerator)
        self._recorder = self._trace.recorder
        self._stream = answer_producers(
            config,
            accelerator,
            opening,
            self._folder,
            stack,
            self._recorder,
            self._resume,
            traces=self._trace.asks_producers,
        )
        self._trace.producers = self._stream.traces
        self._observed = Observed(
            config=config,
            folder=self._folder,
            rank=self._rank,
            world_size=self._world_size,
            recorder=self._recorder,
            stream=self._stream,
            record=self._record,
            steps=self._resume.step if self._resume else 0,
            first_step=self._resume.step if self._resume else 0,
            events=opening.events,
        )
        if opening.metrics:
            opening.metrics.collect(RankMetrics(self._observed).reading)
            opening.metrics.answer_probes(lambda: rank_health(self._observed))
        self._views = Views(self._observed, stack, opening.dashboard) if accelerator.is_main_process else None
        set_seed(config.seed)
        self._tokenizer = build_tokenizer(config, self._prompts)
        self._tokenizer_digest = self._tokenizer.digest if self._tokenizer else ""
        if self._resume:
            checkpoint.check_tokenizer(self._resume, self._tokenizer_digest, config.text.tokenizer)
        network = build_network(config, self._prompts, self._tokenizer)
        model, optimizer = accelerator.prepare(network, build_adamw(config, network))
        self._network = network
        # What is drawn from here on, stochastic depth say, must not be the same on all ranks.
        set_seed(config.seed, device_specific=True)
        self._train_on = TrainingStep(config, accelerator, model, optimizer, build_schedule(config), self._recorder)
        if config.metrics or (self._views and self._views.have_figures):  # who would see it
            self._observed.flops_per_step = flops_per_step(config, network, self._world_size)
            self._observed.matrix_flops_per_s = device_flops_per_s(accelerator)
        checkpoint.make_portable(accelerator)
        self._evaluation = self._open_evaluation()

    # --- setting up ---------------------------------------------------------------------------------------------------

    def _read_checkpoint(self) -> Checkpoint:
        """Where an earlier life stood; rank 0 takes the ledger back to there. Raises RunError."""
        resume = checkpoint.read(self._folder, self._config, self._rank, self._world_size)
        checkpoint.check_prompts(resume, self._prompts, self._config.prompts.shown)
        if self._accelerator.is_main_process:
            checkpoint.rewind_ledgers(self._folder)
        return resume

    def _open_evaluation(self) -> ToyWorldEvaluation | None:
        if not self._accelerator.is_main_process or self._config.evaluation.data == "none":
            return None
        return ToyWorldEvaluation(self._config.evaluation, self._config.augment)

    def _open_reporter(self, first_step: int) -> Reporter:
        config = self._config
        tracking = Tracking(self._accelerator, config.tracking, self._folder, asdict(config), first_step)
        progress = self._views.terminal if self._views else None
        figures = Figures(self._observed)
        return Reporter(config, self._accelerator, self._train_on, self._record, tracking, figures, progress)

    def _open_batches(self, ledger: Ledger, agreed: Engines, first_step: int) -> Prefetcher:
        """The batches of all steps to come; the first is prepared from now on."""
        batches = open_batches(
            self._config,
            self._prompts,
            self._stream,
            ledger,
            agreed.model_digest,
            self._resume.feed if self._resume else FeedState.beginning(self._rank, self._world_size),
            range(first_step, self._config.max_steps),
            self._accelerator.device,
            keeps_state=self._saves_after,
            tokenize=self._tokenizer,
            scorer_digest=agreed.scorer_digest,
        )
        return self._stack.enter_context(batches)

    def _saves_after(self, step: int) -> bool:
        """Whether a checkpoint follows a step."""
        done = step + 1
        return done == self._config.max_steps or done % self._config.checkpoint_every_steps == 0

    # --- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train, evaluate and write what the run leaves behind."""
        if self._resume:
            checkpoint.restore(self._accelerator, self._folder)
        first_step = self._resume.step if self._resume else 0
        stall_report_s = self._config.stream.stall_report_s
        watch = ProgressWatch(self._rank, stall_report_s, first_step, self._stream.waiting)
        self._stack.enter_context(watch)
        agreed = engines.agree(self._accelerator, self._stream, self._config, self._real)
        ledger = open_ledger(
            self._config, self._folder, self._rank, self._world_size, agreed.model_digest, agreed.real_digest
        )
        self._stack.enter_context(ledger)
        batches = self._observed.batches = self._open_batches(ledger, agreed, first_step)
        meter = Meter(
            self._accelerator,
            self._stream,
            batches,
            images_per_step=self._images_per_step,
            max_reuse=self._config.reservoir.reuse_policy.max_reuse,
            started=self._started,
            earlier=self._record.totals,
            num_concepts=len(self._prompts.concepts),
        )
        earlier_s = self._record.totals.seconds
        if self._evaluation and not self._resume:
            self._record.knn_before = self._evaluation.test(self._network.exported)
        reporter = self._stack.enter_context(self._open_reporter(first_step))
        meter.begin()
        for step in range(first_step, self._config.max_steps):
            if self._fleet:
                self._fleet.check()
            batch = batches.take(step)
            with self._recorder.span("step"):
                log = self._train_on(batch, step)
            meter.step()
            watch.done(step)
            done = self._observed.steps = step + 1
            self._observed.stepped_at = time.time()
            reporter.stepped(done, batch)
            if self._evaluation and done % self._config.evaluation.every_steps == 0:
                with self._recorder.span("evaluate"):
                    reporter.looked(done, self._evaluation.look(done, self._network.exported))
            saves = self._saves_after(step)
            if saves or done % _REPORT_EVERY_STEPS == 0 or step == first_step:
                with self._recorder.span("report"):
                    self._observed.loss = reporter.report(done, log, meter.totals())
            # Where steps are being skipped the weights may be why, and must not replace a good checkpoint.
            if saves and (reporter.last_step_counted or done == self._config.max_steps):
                with self._recorder.span("checkpoint"):
                    self._gather_hardest(batches)
                    ledger.sync()
                    self._save(done, agreed, batches.state, ledger.marks)
        watch.close()
        # Before the last evaluation, so that the producers do not work for nothing while it runs.
        batches.close()
        self._stream.close("the run is over")
        if self._views:
            self._views.end()
        reporter.close()
        if self._accelerator.is_main_process:
            seconds = earlier_s + time.perf_counter() - self._started
            self._record.totals = replace(self._record.totals, seconds=seconds)
            export(self._folder, self._config, self._network, self._tokenizer)
            summary = leave_behind(
                self._folder,
                self._config,
                self._network.exported,
                self._evaluation,
                self._record,
                batches,
                self._world_size,
                self._prompts.concepts,
            )
            print(box(summary, shown_width(BOX_WIDTH)))

    def _gather_hardest(self, batches: Prefetcher) -> None:
        """Let the record say of which prompts the filter has rejected most. All ranks call it together."""
        if batches.filter_counts:
            earlier = self._earlier_hardest
            self._record.hardest_prompts = batches.filter_counts.gather_hardest(self._accelerator, earlier)

    def _save(self, done: int, agreed: Engines, feed: FeedState, marks: Marks) -> None:
        """Write a checkpoint after `done` steps. All ranks call it together."""
        state = Checkpoint(
            step=done,
            prompts_digest=self._prompts.digest,
            num_captions=num_captions(self._prompts),
            tokenizer_digest=self._tokenizer_digest,
            record=self._record,
            feed=feed,
            ledger=marks,
            **asdict(agreed),
        )
        checkpoint.save(self._accelerator, self._folder, self._config, state)
