"""All together, as the run goes once it has gone for long: what it achieves, and what can be seen of it meanwhile.

A run begins with an empty reservoir and empty queues, and may need hours until they are as they stay. Which way they
go is known from the measurements before: where the fleet is the faster, everything before the trainer is full; else
next to nothing is there. So the reservoir is filled accordingly with groups of memory, of which a group that is used e
times has had 0 to e - 1 uses, each as likely: what a long run comes to. They are uses that are taken from nobody: what
counts as achieved is compared with what came meanwhile.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from penstock.consumer.feed_state import FeedState, Kept
from penstock.consumer.kept_groups import KeptGroups
from penstock.consumer.ownership import owned_indices
from penstock.consumer.prefetch import Prefetcher
from penstock.consumer.profile_run.bench import Bench, BusyCores
from penstock.consumer.profile_run.looks import (
    Look,
    Looks,
    cost_of_an_event_s,
    events_between,
    look_at,
    services_between,
    shares_between,
    stages_between,
)
from penstock.consumer.profile_run.pouring import rate_of, steady
from penstock.telemetry.profile.measurements import Queue, Rate, Service, StageTimes

_LOOKS_PER_S = 10.0
_SETTLE = 0.3
"""Of the measured time, how long the run goes before that."""
_AGREE_S = 0.5
"""About how often the ranks ask each other whether they have seen enough."""
_AT_MOST = 3.0
"""Longest stretch, in units of the one that was asked for: few steps in it get more time."""
_MIN_STEPS = 20
_FILL_LOOK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the measurements before let expect, over all ranks."""

    images_per_s: float
    """Trained on."""
    is_fed: bool
    """Whether the fleet is faster than what uses its images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one rank has seen in the measured stretch."""

    trained: Rate
    arrived: Rate
    steps: int
    wait_s: float
    stages: dict[str, StageTimes]
    services: tuple[Service, ...]
    sampled_at_s: tuple[float, ...]
    queues: tuple[Queue, ...]
    by_producer: dict[str, float]
    """Images/s that came of each."""
    busy_shares: dict[str, float]
    """Of the time, that each producer's engine worked, 0 to 1; of those that say so."""
    flop_shares: dict[str, float]
    """Their arithmetic as a share of what matrix products reach on their devices; where that is known."""
    groups_by_uses: tuple[int, ...]
    expired: int
    hedged: int
    quarantined: int
    rejects: dict[str, int]
    overhead_share: float
    """What looking at it has taken, of the time."""


def run_together(bench: Bench, seconds: float, expected: Expected) -> Seen:
    """Train, or take as long, on what the fleet makes meanwhile; what is out already is used too.

    The stream gives no groups to anybody afterwards.

    Args:
        bench: whose.
        seconds: of the measured stretch, at least; what goes before it is extra.
        expected: decides how full reservoir and queues are at first.

    Raises StarvedError, RunError: as the stream.
    """
    kept = _kept(bench, expected)
    bench.pass_index(max(each.index for each in kept))
    state = FeedState(rank=bench.rank, world_size=bench.world_size, cursor=bench.next_index + bench.rank, kept=kept)
    uses = {each.index: each.uses for each in kept}
    use_s = bench.config.capacity_groups / bench.config.groups_per_step * _step_s(bench, expected)
    groups = KeptGroups(bench.groups, then=bench.stream, age_s=lambda index: uses[index] * use_s)
    with bench.open_batches(groups, state) as batches, Looks(bench.stream, batches, 1 / _LOOKS_PER_S) as looks:
        batches.groups_by_uses[:] = np.bincount(list(uses.values())).tolist()
        if expected.is_fed:
            _fill(bench, batches, 2 * seconds)
        run = _Run(bench, batches, max(1, round(_AGREE_S / _step_s(bench, expected))))
        run.until(lambda: run.seconds >= _SETTLE * seconds)
        before, busy = run.begin(), BusyCores()
        run.until(lambda: run.seconds >= seconds and (len(run.done) > _MIN_STEPS or run.seconds >= _AT_MOST * seconds))
        after = run.end()
        trained = replace(run.rate(after.at_s - before.at_s), busy_share=busy.share())
    return _seen(bench, looks, before, after, trained)


class _Run:
    """Steps of a rank, and when each was done."""

    def __init__(self, bench: Bench, batches: Prefetcher, steps_at_a_time: int) -> None:
        self._bench, self._batches, self._steps_at_a_time = bench, batches, steps_at_a_time
        self._begun = time.monotonic()
        self.done = [0.0]
        """s, since the stretch began, and 0 for that."""

    @property
    def seconds(self) -> float:
        """Since the stretch began."""
        return time.monotonic() - self._begun

    def until(self, is_enough: Callable[[], bool]) -> None:
        """Go on until it is enough on every rank."""
        while True:
            for _ in range(self._steps_at_a_time):
                batch = self._batches.take(self._bench.num_steps)
                with self._bench.stream.recorder.span("step"):
                    self._bench.train(batch)
                self.done.append(self.seconds)
            self._bench.check_fleet()
            if self._bench.all_agree(is_enough()):
                return

    def begin(self) -> Look:
        """The stretch that counts begins now."""
        self._bench.wait_for_device()
        look = look_at(self._bench.stream, self._batches)
        self._begun, self.done = look.at_s, [0.0]
        return look

    def end(self) -> Look:
        """It ends now."""
        self._bench.wait_for_device()
        return look_at(self._bench.stream, self._batches)

    def rate(self, seconds: float) -> Rate:
        """At which images were trained on."""
        images = self._bench.images_per_step
        return Rate(images=(len(self.done) - 1) * images, seconds=seconds, windows=steady(self.done, images))


def _step_s(bench: Bench, expected: Expected) -> float:
    """Seconds of a step, as expected."""
    return bench.config.groups_per_step * bench.config.images_per_use / max(expected.images_per_s, 1e-6)


def _kept(bench: Bench, expected: Expected) -> tuple[Kept, ...]:
    """What is in this rank's reservoir at first.

    In ticket order it is full before every step. Else a fleet that is the slower leaves a step's groups in it, or as
    many as lie apart from each other.
    """
    config = bench.config
    is_full = expected.is_fed or config.order == "ticket"
    most = config.capacity_groups if is_full else config.groups_per_step * config.reservoir.min_distance_steps
    indices = []
    for index in owned_indices(bench.rank, bench.world_size, bench.next_index):
        if index >= bench.next_index + most:
            break
        indices.append(index)
    uses = np.random.default_rng([config.seed, bench.rank]).permutation(np.arange(len(indices)) % bench.max_reuse)
    return tuple(Kept(index, int(used), 0) for index, used in zip(indices, uses, strict=True))


def _fill(bench: Bench, batches: Prefetcher, patience_s: float) -> None:
    """Wait until the fleet has made all that it may: it is the faster, and waits for room from now on."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        time.sleep(_FILL_LOOK_S)
        # Once there is a batch the reservoir is full, and new groups are asked for.
        if batches.look().is_ready and not bench.stream.look().tickets.total():
            return


def _seen(bench: Bench, looks: Looks, before: Look, after: Look, trained: Rate) -> Seen:
    arrivals = looks.arrivals()
    names = {arrival.producer for arrival in arrivals}
    each = {name: [arrival for arrival in arrivals if arrival.producer == name] for name in names}
    wire_bytes = after.stream.stats.image_bytes - before.stream.stats.image_bytes
    arrived = rate_of(arrivals, before.at_s, after.at_s, wire_bytes)
    stats, stats_before = after.stream.stats, before.stream.stats
    sampled_at_s, queues = looks.queues(before.at_s, after.at_s)
    rejects = {
        reason: count - before.stream.rejects.get(reason, 0)
        for reason, count in after.stream.rejects.items()
        if count > before.stream.rejects.get(reason, 0)
    }
    shares = shares_between(before.stream, after.stream)
    cost_s = looks.cost_s + cost_of_an_event_s() * events_between(before, after)
    return Seen(
        trained=trained,
        arrived=arrived,
        steps=round(trained.images / bench.images_per_step),
        wait_s=after.wait_s - before.wait_s,
        stages=stages_between(before, after),
        services=tuple(services_between(before, after, bench.rank)),
        sampled_at_s=sampled_at_s,
        queues=queues,
        by_producer={name: rate_of(mine, before.at_s, after.at_s).images_per_s for name, mine in sorted(each.items())},
        busy_shares={name: busy for name, (busy, _) in shares.items()},
        flop_shares={name: flops for name, (_, flops) in shares.items() if flops is not None},
        groups_by_uses=after.groups_by_uses,
        expired=stats.expired - stats_before.expired,
        hedged=stats.hedged - stats_before.hedged,
        quarantined=stats.quarantined - stats_before.quarantined,
        rejects=rejects,
        overhead_share=cost_s / (after.at_s - before.at_s),
    )
