"""Each part of the way alone: the fleet into a sink, the wire, steps on batches in memory, a host that prepares them.

While the fleet and the wire are measured nobody trains, and a rank's main thread only counts what has come. While steps
and host are measured no ticket is out, so the fleet idles.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil

from penstock.consumer.batch import Batch
from penstock.consumer.feed_state import FeedState
from penstock.consumer.group import Group
from penstock.consumer.kept_groups import KeptGroups
from penstock.consumer.ownership import owned_indices
from penstock.consumer.profile_run.bench import Bench, BusyCores
from penstock.consumer.profile_run.laps import Laps
from penstock.consumer.profile_run.looks import worked_between
from penstock.consumer.profile_run.pouring import Arrival, rate_of, steady
from penstock.protocol.fleet import PeerState
from penstock.protocol.tickets import Ticket
from penstock.telemetry.profile.measurements import Rate

_LOOK_S = 0.5
"""How often the ranks ask each other whether they have seen enough."""
_AT_MOST = 3.0
"""Longest measurement, in units of the one that was asked for: what is slow gets more time to show its rate."""
_FEW_BATCHES = 4
"""Batches of each producer that a rate should be made of."""
_FEW_STEPS = 15
"""Steps that a rate should be made of: parts of three in which its spread shows."""
_CACHED_BATCHES = 2
_WARM_STEPS = 5
_SHORTEST_STEP_S = 1e-4


class Asking(Iterator[Ticket]):
    """The tickets of a rank from a global index on, as a run would write them; without end, or so many.

    Args:
        bench: whose.
        num_tickets: how many; None for no end.
        probe: whether the engines are to be left out.
    """

    def __init__(self, bench: Bench, num_tickets: int | None = None, *, probe: bool = False) -> None:
        self._writer = bench.writer()
        self._rank, self._step = bench.rank, bench.num_steps
        self._indices = owned_indices(bench.rank, bench.world_size, bench.next_index)
        self._left = num_tickets
        self._probe = probe
        self.stand_in = self._writer.stand_in
        self.last_index = bench.next_index - 1

    def __next__(self) -> Ticket:
        if self._left == 0:
            raise StopIteration
        self._left = None if self._left is None else self._left - 1
        self.last_index = next(self._indices)
        return replace(self._writer.write(self.last_index, self._rank, self._step), probe=self._probe)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poured:
    """What came of the fleet into the sink, or of the wire."""

    rate: Rate
    by_producer: dict[str, float]
    """Images/s of each."""
    engines: dict[str, float]
    """Images/s that each producer's engine makes in the time that it works; of those that say so."""


def warm_up(bench: Bench) -> None:
    """Let every producer make a batch or two, and keep what comes: the first may have to be compiled for."""
    images = bench.config.generator.images_per_group
    batches = [ceil(peer.manifest.batch_images / images) for peer in bench.stream.look().peers]
    num_groups = ceil(2 * sum(batches) / bench.world_size)
    asking = Asking(bench, num_groups)
    bench.stream.ask(asking, asking.stand_in)
    for _ in range(num_groups):
        group = bench.stream.get()
        # No more than a run would keep, however many producers there are.
        if len(bench.groups) < bench.config.capacity_groups // bench.world_size:
            bench.groups.append(group)
    bench.pass_index(asking.last_index)


def pour(bench: Bench, seconds: float, *, probe: bool = False) -> Poured:
    """How fast groups come when nothing is done with them. More may be out when it ends; see `drain`.

    Measured from when every producer has sent one, for at least so many seconds.

    Args:
        bench: whose stream.
        seconds: how long.
        probe: the wire alone, without engines.

    Raises StarvedError, RunError: as the stream.
    """
    asking = Asking(bench, probe=probe)
    begun, arrivals = time.monotonic(), []
    bench.stream.ask(asking, asking.stand_in)

    def take_for_a_moment() -> None:
        until = time.monotonic() + min(_LOOK_S, seconds / 4)
        while time.monotonic() < until:
            arrivals.append(_arrival(bench.stream.get()))
        bench.check_fleet()

    def has_settled() -> bool:
        ready = {peer.name for peer in bench.stream.look().peers if peer.state is PeerState.READY}
        return ready <= {arrival.producer for arrival in arrivals}

    _until(bench, take_for_a_moment, lambda: has_settled() or time.monotonic() > begun + seconds)
    since, busy, before = time.monotonic(), BusyCores(), bench.stream.look()

    def has_seen_enough() -> bool:
        waited = time.monotonic() - since
        return waited >= seconds and (_has_batches(bench, arrivals, since) or waited > _AT_MOST * seconds)

    _until(bench, take_for_a_moment, has_seen_enough)
    until, after = time.monotonic(), bench.stream.look()
    rate = rate_of(arrivals, since, until, after.stats.image_bytes - before.stats.image_bytes)
    names = {arrival.producer for arrival in arrivals}
    each = {name: [arrival for arrival in arrivals if arrival.producer == name] for name in names}
    by_producer = {name: rate_of(mine, since, until).images_per_s for name, mine in sorted(each.items())}
    bench.pass_index(asking.last_index)
    worked = {} if probe else worked_between(before, after)
    return Poured(
        rate=replace(rate, busy_share=busy.share()),
        by_producer=by_producer,
        engines={name: images / busy_s for name, (images, busy_s) in worked.items() if images and busy_s},
    )


def drain(bench: Bench) -> None:
    """Ask for nothing more, and take what is out until nothing is. Raises StarvedError, RunError: as the stream."""
    bench.stream.ask(iter(()), bench.writer().stand_in)
    while (look := bench.stream.look()).tickets.total() or look.arrived_groups:
        bench.stream.get()  # whose patience ends where nobody is left to make it


def cached_steps(bench: Bench, seconds: float) -> tuple[Rate, float]:
    """How fast steps go on batches that are ready; and how long the first one took, s. Moves the weights."""
    kept = KeptGroups(bench.groups)
    with bench.open_batches(kept, _beginning(bench)) as batches:
        ready = [batches.take(bench.num_steps + number) for number in range(_CACHED_BATCHES)]
    bench.num_steps += _CACHED_BATCHES
    bench.pass_index(kept.last_index)
    first_s = _timed(bench, ready, 1)[-1]
    warm = _timed(bench, ready, _WARM_STEPS)
    step_s = bench.most(min(after - before for before, after in itertools.pairwise(warm)))
    steps_at_a_time = ceil(_LOOK_S / max(step_s, _SHORTEST_STEP_S))
    bench.wait_for_device()
    begun, done, busy = time.monotonic(), [0.0], BusyCores()

    def go_on() -> None:
        offset = time.monotonic() - begun
        done.extend(offset + each for each in _timed(bench, ready, steps_at_a_time)[1:])

    _until(bench, go_on, lambda: _is_enough(done, seconds))
    rate = Rate(
        images=(len(done) - 1) * bench.images_per_step,
        seconds=done[-1],
        windows=steady(done, bench.images_per_step),
        busy_share=busy.share(),
    )
    return rate, first_s


def host(bench: Bench, seconds: float) -> Rate:
    """How fast the rank prepares batches from groups in memory, with all that a run does for one but the step."""
    groups_per_step = bench.config.groups_per_step // bench.world_size
    kept = KeptGroups(bench.groups, groups_per_step=ceil(groups_per_step / bench.max_reuse))
    begun, done, busy = 0.0, [0.0], BusyCores()
    with bench.open_batches(kept, _beginning(bench)) as batches:
        for number in range(_CACHED_BATCHES):  # the first fills the reservoir
            batches.take(bench.num_steps + number)
        bench.num_steps += _CACHED_BATCHES
        bench.wait_for_device()
        begun = time.monotonic()
        while not _is_enough(done, seconds):
            batches.take(bench.num_steps)
            bench.num_steps += 1
            done.append(time.monotonic() - begun)
        bench.wait_for_device()
        whole_s = time.monotonic() - begun
    bench.num_steps = int(bench.most(bench.num_steps))
    bench.pass_index(kept.last_index)
    return Rate(
        images=(len(done) - 1) * bench.images_per_step,
        seconds=whole_s,
        windows=steady(done, bench.images_per_step),
        busy_share=busy.share(),
    )


def _timed(bench: Bench, ready: list[Batch], num_steps: int) -> list[float]:
    """When the device had done each of several steps, s since they began, with 0 before them."""
    bench.wait_for_device()
    laps = Laps(bench.accelerator.device)
    for number in range(num_steps):
        bench.train(ready[number % len(ready)])
        laps.lap()
    return laps.seconds()


def _until(bench: Bench, act: Callable[[], None], is_enough: Callable[[], bool]) -> None:
    """Act again and again, until it is enough on every rank."""
    act()
    while not bench.all_agree(is_enough()):
        act()


def _is_enough(done: list[float], seconds: float) -> bool:
    """Whether steps that were done at these times, s, after a first one, say how fast they go, and how steadily."""
    return done[-1] >= seconds and (len(done) > _FEW_STEPS or done[-1] >= _AT_MOST * seconds)


def _has_batches(bench: Bench, arrivals: list[Arrival], since: float) -> bool:
    """Whether several batches of each producer have come, or as much as if they all had."""
    images = sum(arrival.images for arrival in arrivals if arrival.at_s > since)
    return images >= _FEW_BATCHES * sum(peer.manifest.batch_images for peer in bench.stream.look().peers)


def _beginning(bench: Bench) -> FeedState:
    """An empty reservoir; what follows is at indices of its own."""
    return FeedState(rank=bench.rank, world_size=bench.world_size, cursor=bench.next_index + bench.rank)


def _arrival(group: Group) -> Arrival:
    return Arrival(group.arrived_ns * 1e-9, group.producer, len(group.images))
