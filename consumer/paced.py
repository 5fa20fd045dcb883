"""A rank whose steps only take time: the whole data path of a trainer, and no model behind it.

    python -m penstock.consumer.paced --images-per-s 320 --max-steps 200 --run-dir runs/paced

Tickets, stream, reservoir, order, prefetch, collate and ledger are the trainer's own; a step sleeps for as long as its
images take at the pace. So fleets and rates that no machine at hand can serve can be run through the real protocol.
Each rank is a process of its own with RANK and WORLD_SIZE set; ranks do not wait for each other. The last line of
the output is the report, as JSON.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path

import psutil
import torch

from penstock.config.load import load_config
from penstock.config.process import configure_logging, run
from penstock.config.rules import require
from penstock.consumer import ledger_schema
from penstock.consumer.batch import Batch
from penstock.consumer.config import TrainConfig
from penstock.consumer.feed_state import FeedState
from penstock.consumer.intake import open_batches, open_ledger, open_stream
from penstock.consumer.opening import check_trace, open_metrics
from penstock.consumer.prefetch import Prefetcher
from penstock.consumer.prompts.opening import open_source
from penstock.consumer.record import Record
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.stream import GroupStream
from penstock.consumer.watching.metrics import RankMetrics
from penstock.consumer.watching.observed import Observed
from penstock.consumer.watching.run_trace import RunTrace
from penstock.protocol.addresses import next_endpoint
from penstock.protocol.admission import Expectation
from penstock.protocol.errors import ConfigError, StarvedError
from penstock.protocol.keys import read_trainer_keys
from penstock.protocol.sockets import RankSocket
from penstock.telemetry.pace import Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class PacedConfig(TrainConfig):
    """A paced rank: the trainer's settings, of which those of model and optimizer mean nothing, and its pace."""

    images_per_s: float = 1000.0
    """T: images that this rank's step takes a second, as it were."""
    min_producers: int = 1
    """Producers to wait for before the first step."""
    first_measured_step: int = 10
    """Steps before this one are warm-up."""
    sample_every_steps: int = 0
    """Steps between two looks at the process's memory; 0 for none."""

    def __post_init__(self) -> None:
        # Without its arguments `super` looks for the class that `slots` has replaced.
        TrainConfig.__post_init__(self)
        require(0 < self.images_per_s < inf, "images_per_s must be > 0", self.images_per_s)
        require(
            0 <= self.first_measured_step < self.max_steps,
            f"first_measured_step must be in [0, max_steps ({self.max_steps}))",
            self.first_measured_step,
        )
        require(self.min_producers >= 1, "min_producers must be >= 1", self.min_producers)
        require(self.sample_every_steps >= 0, "sample_every_steps must be >= 0", self.sample_every_steps)
        for name, value, why in (
            ("real.fraction", self.real.fraction, "all its groups are paced"),
            ("filter", self.filter if self.filter.is_on else None, "its images show nothing that could be scored"),
            ("fleet.local_producers", self.fleet.local_producers, "it starts none"),
            ("dashboard", self.dashboard, "there is nothing to see"),
            ("tracking.trackers", () if self.tracking.is_auto else self.tracking.trackers, "there is nothing to track"),
            ("resume", self.resume, "none goes on"),
        ):
            require(not value, f"{name} must be left out of a rehearsal: {why}", value)


@dataclass(slots=True, kw_only=True)
class PacedReport:
    """What a paced rank has seen in the steps that are measured."""

    steps: int
    seconds: float
    images_trained: int
    images_per_s: float
    images_received: int
    wait_s: float
    """Time that steps waited for their batch."""
    cpu_s: float
    """CPU time of this process."""
    groups: int
    """Groups received since the beginning."""
    rejected: int
    expired: int
    hedged: int
    groups_by_uses: list[int]
    samples: list[tuple[int, int]] = field(default_factory=list)
    """(groups received so far, resident bytes)."""


class PacedStep:
    """A step that takes as long as its images take at a pace, and does nothing.

    Args:
        images_per_s: T of this rank.
    """

    def __init__(self, images_per_s: float) -> None:
        self._images_per_s = images_per_s
        self._pace = Pace()

    def __call__(self, batch: Batch, step: int) -> None:
        """Take the time of `batch`."""
        with self.lasting(len(batch.images)):
            pass

    def lasting(self, num_images: int) -> AbstractContextManager[None]:
        """Around what is done meanwhile, which takes none of the time of so many images."""
        return self._pace.lasting(num_images / self._images_per_s)


def wait_for_fleet(stream: GroupStream, min_producers: int, timeout_s: float) -> None:
    """Wait until so many producers are connected. Raises StarvedError where they do not come in time."""
    deadline = time.monotonic() + timeout_s
    while (num_producers := stream.stats.producers) < min_producers:
        if time.monotonic() > deadline:
            raise StarvedError(
                f"{num_producers} of min_producers ({min_producers}) came in {timeout_s:g} s; see their logs, or raise "
                "stream.warmup_timeout_s"
            )
        time.sleep(0.05)


def train(config: PacedConfig, batches: Prefetcher, observed: Observed) -> PacedReport:
    """Take every step's batch, and as long as its images take at the pace.

    Raises StarvedError, RunError: as the stream.
    """
    stream, images_per_step = observed.stream, observed.images_per_step
    process, samples, paced = psutil.Process(), [], PacedStep(config.images_per_s)
    begun = waited = cpu = 0.0
    received = 0
    for step in range(config.max_steps):
        if step == config.first_measured_step:
            begun, waited, cpu, received = time.monotonic(), batches.wait_s, _cpu_s(process), stream.stats.images
        batches.take(step)
        with stream.recorder.span("step"), paced.lasting(images_per_step):
            if config.sample_every_steps and step % config.sample_every_steps == 0:
                samples.append((stream.stats.groups, process.memory_info().rss))
        observed.steps, observed.stepped_at = step + 1, time.time()
    seconds, steps, stats = time.monotonic() - begun, config.max_steps - config.first_measured_step, stream.stats
    return PacedReport(
        steps=steps,
        seconds=seconds,
        images_trained=steps * images_per_step,
        images_per_s=steps * images_per_step / seconds,
        images_received=stats.images - received,
        wait_s=batches.wait_s - waited,
        cpu_s=_cpu_s(process) - cpu,
        groups=stats.groups,
        rejected=stats.rejected,
        expired=stats.expired,
        hedged=stats.hedged,
        groups_by_uses=batches.groups_by_uses,
        samples=samples,
    )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main(argv: Sequence[str]) -> int:
    """Be one paced rank. Returns the exit status."""
    config = load_config(
        PacedConfig,
        argv,
        preset_dir=Path(__file__).parent / "presets",
        prog="python -m penstock.consumer.paced",
        description="Rehearse a trainer: take batches at a pace, and train on nothing.",
    )
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    configure_logging(f"rank {rank}")
    if (config.run_dir / "run.json").exists():
        raise ConfigError(f"{config.run_dir} is a run's folder, whose ledger a rehearsal would replace; name another")
    check_trace(config.trace)
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run_dir {config.run_dir} cannot be made: {error.strerror or error}") from error
    folder = RunFolder(config.run_dir, run_id="paced", incarnation=1)
    with ExitStack() as stack:
        endpoints = [next_endpoint(config.stream.endpoint, other) for other in range(world_size)]
        socket = RankSocket(
            endpoints[rank],
            keys=read_trainer_keys(Path(config.stream.keys).expanduser()) if config.stream.keys else None,
            max_connections=config.stream.max_connections,
            group_bytes=config.generator.group_bytes,
        )
        stack.callback(socket.close)
        endpoints[rank] = socket.endpoint
        metrics = stack.enter_context(open_metrics(config, rank)) if config.metrics else None
        trace = stack.enter_context(RunTrace(config.trace, folder, rank, world_size))
        stream = open_stream(
            config,
            folder,
            socket,
            rank,
            endpoints,
            (socket.key,) * world_size if socket.key else (),
            Expectation(),
            traces=trace.asks_producers,
            recorder=trace.recorder,
        )
        trace.producers = stream.traces
        stack.callback(stream.close, "the rehearsal is over")
        observed = Observed(
            config=config,
            folder=folder,
            rank=rank,
            world_size=world_size,
            recorder=trace.recorder,
            stream=stream,
            record=Record(),
        )
        if metrics:
            metrics.collect(RankMetrics(observed).reading)
        stream.start()
        digest = stream.wait_for_engine().model_digest
        wait_for_fleet(stream, config.min_producers, config.stream.warmup_timeout_s)
        ledger_schema.remove(folder.ledger(rank))  # of an earlier rehearsal: none goes on
        observed.batches = batches = open_batches(
            config,
            open_source(config.prompts, config.seed),
            stream,
            stack.enter_context(open_ledger(config, folder, rank, world_size, digest)),
            digest,
            FeedState.beginning(rank, world_size),
            range(config.max_steps),
            torch.device("cpu"),
        )
        report = train(config, stack.enter_context(batches), observed)
    print(json.dumps(asdict(report)))
    return 0


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
