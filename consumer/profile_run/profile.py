"""One rank of a profile: it opens what a run opens, and measures one thing after the other."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from urllib.parse import urlsplit

from accelerate import Accelerator
from accelerate.utils import set_seed

from penstock.consumer import engines, ledger_schema, run_folder
from penstock.consumer.batch import Batch
from penstock.consumer.building import build_adamw, build_network, build_schedule, build_tokenizer
from penstock.consumer.intake import open_ledger
from penstock.consumer.joining import naming_lost_ranks, open_accelerator
from penstock.consumer.opening import Opening, open_prompts
from penstock.consumer.paced import PacedStep
from penstock.consumer.profile_run import alone, described, parts
from penstock.consumer.profile_run.bench import Bench
from penstock.consumer.profile_run.meeting import RollCall
from penstock.consumer.profile_run.parts import Part
from penstock.consumer.profile_run.pouring import added
from penstock.consumer.profile_run.settings import ProfileConfig
from penstock.consumer.profile_run.together import Expected, run_together
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.ranks import gather_texts
from penstock.consumer.record import Record
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.step_flops import device_flops_per_s, flops_per_step
from penstock.consumer.tokenizer import CaptionTokenizer
from penstock.consumer.train import answer_producers
from penstock.consumer.training_step import TrainingStep
from penstock.consumer.watching.metrics import RankMetrics
from penstock.consumer.watching.observed import Observed
from penstock.consumer.watching.run_trace import RunTrace
from penstock.telemetry.machine import usable_cores
from penstock.telemetry.profile import typed_json
from penstock.telemetry.profile.measurements import Measurements, Prices, Rate

_log = logging.getLogger(__name__)

_SHORTER, _LONGER = 0.5, 1.5
"""Of the time of a measurement, what the host takes, which is alone and steady, and what all together take."""


def measure(
    config: ProfileConfig, rank: int, opening: Opening, stack: ExitStack, begun: float, command: str
) -> Measurements | None:
    """Measure as `config` says. All ranks call it; rank 0 gets what all of them measured, the others None.

    Args:
        config: what to measure.
        rank: this process's rank, as its launcher says.
        opening: what was opened while torch was loading.
        stack: closes what is opened here.
        begun: `time.monotonic` at the start of the program.
        command: a line for the shell that does it again.

    Raises:
        PenstockError: anything that the user can mend; see `penstock.protocol.errors`.
    """
    accelerator = open_accelerator(config, rank)
    with naming_lost_ranks(accelerator):
        measurements = _Profile(config, accelerator, opening, stack, begun).measure(command)
    accelerator.end_training()
    return measurements


class _Profile:
    """One rank; arguments as of `profile`."""

    def __init__(
        self, config: ProfileConfig, accelerator: Accelerator, opening: Opening, stack: ExitStack, begun: float
    ) -> None:
        self._config, self._accelerator, self._begun = config, accelerator, begun
        accelerator.wait_for_everyone()
        prompts = opening.prompts or open_prompts(config, opening.real)
        folder = run_folder.read(config.run_dir)
        self._run_id = folder.run_id
        rank, world_size = accelerator.process_index, accelerator.num_processes
        observed = self._open_stream(opening, folder, stack)
        stream = observed.stream
        tokenizer = build_tokenizer(config, prompts)
        step = self._open_step(prompts, tokenizer, observed)
        agreed = engines.agree(accelerator, stream, config, opening.real)
        digests = agreed.model_digest, agreed.real_digest
        ledger = open_ledger(config, folder, rank, world_size, *digests)
        stack.enter_context(ledger)
        # Nobody will ask what a profile trained on.
        stack.callback(ledger_schema.remove, folder.ledger(rank))
        loops_back = urlsplit(config.stream.endpoint).hostname in ("127.0.0.1", "::1", "localhost", None)
        self._roll_call = RollCall(stream, opening.fleet, on_this_machine=loops_back, begun=begun)
        self._bench = Bench(
            config=config,
            accelerator=accelerator,
            stream=stream,
            prompts=prompts,
            tokenizer=tokenizer,
            ledger=ledger,
            engines=agreed,
            observed=observed,
            step=step,
            check_fleet=self._roll_call.check,
        )

    def _open_stream(self, opening: Opening, folder: RunFolder, stack: ExitStack) -> Observed:
        """What comes, and what may be seen of it: traced and scraped as a run is, it is measured as it goes then."""
        config, accelerator = self._config, self._accelerator
        rank, world_size = accelerator.process_index, accelerator.num_processes
        trace = stack.enter_context(RunTrace(config.trace, folder, rank, world_size))
        trace.align(accelerator)
        asks = trace.asks_producers
        stream = answer_producers(config, accelerator, opening, folder, stack, trace.recorder, traces=asks)
        trace.producers = stream.traces
        observed = Observed(
            config=config,
            folder=folder,
            rank=rank,
            world_size=world_size,
            recorder=trace.recorder,
            stream=stream,
            record=Record(),
            events=opening.events,
        )
        if opening.metrics:
            opening.metrics.collect(RankMetrics(observed).reading)
        return observed

    def _open_step(
        self, prompts: PromptSource, tokenizer: CaptionTokenizer | None, observed: Observed
    ) -> Callable[[Batch, int], object]:
        """What a step does: a trainer's, or nothing for as long."""
        config, accelerator = self._config, self._accelerator
        if config.paced_images_per_s:
            return PacedStep(config.paced_images_per_s)
        set_seed(config.seed)
        network = build_network(config, prompts, tokenizer)
        model, optimizer = accelerator.prepare(network, build_adamw(config, network))
        set_seed(config.seed, device_specific=True)
        observed.flops_per_step = flops_per_step(config, network, accelerator.num_processes)
        observed.matrix_flops_per_s = device_flops_per_s(accelerator)
        return TrainingStep(config, accelerator, model, optimizer, build_schedule(config), observed.recorder)

    def measure(self, command: str) -> Measurements | None:
        """One measurement after the other; all of them on rank 0, None elsewhere."""
        bench, seconds = self._bench, self._config.seconds
        warmup_s = self._wait_for_producers()
        waited = time.monotonic()
        alone.warm_up(bench)
        warmup_s["first groups"] = time.monotonic() - waited
        trainer, first_step_s = alone.cached_steps(bench, seconds)
        warmup_s["first step"] = bench.most(first_step_s)
        self._tell("steps on batches in memory (T)", trainer, "trained on")
        host = alone.host(bench, _SHORTER * seconds)
        self._tell("a host preparing batches from memory (H)", host, "trained on")
        wire = alone.pour(bench, seconds, probe=True).rate
        alone.drain(bench)
        self._tell("the wire alone (W)", wire, "made")
        fleet = alone.pour(bench, seconds)
        self._tell("producers into a sink (P)", fleet.rate, "made")
        if self._config.order == "ticket":
            alone.drain(bench)
        expected = self._expect(trainer, host, wire, fleet.rate)
        seen = run_together(bench, _LONGER * seconds, expected)
        self._tell("all together", seen.trained, "trained on")
        part = Part(
            rank=bench.rank,
            device=described.device(self._accelerator.device),
            fleet=fleet.rate,
            wire=wire,
            host=host,
            trainer=trainer,
            first_step_s=first_step_s,
            alone_by_producer=fleet.by_producer,
            engines=fleet.engines,
            seen=seen,
            flops_per_step=bench.observed.flops_per_step,
            matrix_flops_per_s=bench.observed.matrix_flops_per_s,
        )
        texts = gather_texts(self._accelerator, json.dumps(asdict(part)))
        bench.stream.close("the profile is over")
        if not self._accelerator.is_main_process:
            return None
        every = [typed_json.read(Part, json.loads(text)) for text in texts]
        return self._put_together(every, warmup_s, command)

    def _put_together(self, every: Sequence[Part], warmup_s: dict[str, float], command: str) -> Measurements:
        config, roll_call = self._config, self._roll_call
        policy = config.reservoir.reuse_policy
        return Measurements(
            run_id=self._run_id,
            measured_at=time.time(),
            seconds=time.monotonic() - self._begun,
            command=command,
            config_digest=described.digest(config),
            environment=described.environment(),
            cores=usable_cores(),
            is_paced=bool(config.paced_images_per_s) or any(each.backend == "paced" for each in roll_call.met),
            world_size=len(every),
            groups_per_step=config.groups_per_step,
            images_per_group=config.generator.images_per_group,
            images_per_use=config.images_per_use,
            policy=config.reservoir.policy,
            min_reuse=policy.min_reuse,
            max_reuse=policy.max_reuse,
            producers=parts.producers(roll_call.met, every),
            left=tuple(sorted(roll_call.left)),
            joined=tuple(sorted(roll_call.joined)),
            ranks=tuple(part.measured for part in every),
            fleet=parts.fleet(roll_call.met, every, is_filtered=config.filter.is_on),
            wire=added([part.wire for part in every]),
            host=added([part.host for part in every]),
            trainer=added([part.trainer for part in every]),
            together=parts.together(every),
            services=tuple(service for part in every for service in part.seen.services),
            warmup_s=warmup_s,
            overhead_share=max(part.seen.overhead_share for part in every),
            prices=Prices(
                producer_per_hour=config.producer_price_per_hour, trainer_per_hour=config.trainer_price_per_hour
            ),
        )

    def _wait_for_producers(self) -> dict[str, float]:
        """Until the fleet is whole; how long that has taken, s, by what is waited for. Raises StarvedError."""
        config = self._config
        local = config.local_fleet
        wanted = max(config.min_producers, local.local_producers + local.local_image_producers)
        self._roll_call.wait(wanted, config.stream.warmup_timeout_s)
        # The other ranks are as far: none is measured while another still waits.
        self._accelerator.wait_for_everyone()
        return {"producers": time.monotonic() - self._begun}

    def _expect(self, trainer: Rate, host: Rate, wire: Rate, fleet: Rate) -> Expected:
        """What all together should come to, over all ranks."""
        config, bench = self._config, self._bench
        e = bench.max_reuse * config.images_per_use / config.generator.images_per_group
        made = e * min(bench.total(wire.images_per_s), bench.total(fleet.images_per_s))
        taken = min(bench.total(trainer.images_per_s), bench.total(host.images_per_s))
        return Expected(images_per_s=min(made, taken), is_fed=made >= taken)

    def _tell(self, what: str, rate: Rate, verb: str) -> None:
        """Say how it went on. All ranks call it together."""
        total = self._bench.total(rate.images_per_s)
        if self._accelerator.is_main_process:
            _log.info("%s: %s images/s %s", what, f"{total:,.0f}" if total >= 10 else f"{total:.2f}", verb)
