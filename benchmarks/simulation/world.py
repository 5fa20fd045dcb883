"""All ranks and producers of a run, what happens to them, and what came of it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

from simulation.churn import CUT_S, Loss
from simulation.costs import Costs
from simulation.network import Line, Network
from simulation.one_rank import NO_COSTS, MachineCosts
from simulation.producer import SimulatedProducer
from simulation.rank import SimulatedRank
from simulation.setting import Setting
from simulation.timeline import Timeline

NOTICES_S = 11.0
"""ZeroMQ's own heartbeats end a connection whose other end has vanished after so long (HEARTBEAT_TIMEOUT, and a part
of HEARTBEAT_IVL)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a simulated run came to, over its measured time."""

    ideal_images_per_s: float
    """Of the producers that were there with their model loaded, at their pace, on the average of the time."""
    images_per_s: float
    """That the ranks' steps took."""
    lost: int
    """Producers."""
    recovery_s: tuple[float, float, float] | None
    """Median, 95th percentile and longest, from a loss without notice to the group of a ticket that the lost one held.
    What is still missing at the end counts as the longest, by the time that it has been missing."""
    messages_per_s: float
    """Of a rank, in and out, the mean."""
    bytes_per_s: float
    cpu: float
    """Share of a core that a rank's stream needs, the mean."""
    busiest_cpu: float
    """The same of the rank that needs most."""
    expired: int
    hedged: int
    producers_per_rank: float
    simulated_events: int

    @property
    def achieved(self) -> float:
        """Share of the ideal."""
        return self.images_per_s / self.ideal_images_per_s


class World:
    """A run in its simulated surroundings.

    Args:
        setting: what it is.
        costs: of messages.
        machine: CPU time of a rank's ticks and hand-outs.
    """

    def __init__(self, setting: Setting, costs: Costs, machine: MachineCosts = NO_COSTS) -> None:
        self.setting, self.costs, self.machine_costs = setting, costs, machine
        self.random = random.Random(setting.seed)
        self.timeline = Timeline()
        self.network = Network(self.timeline, setting.latency_s)
        self.endpoints = tuple(f"tcp://rank-{rank}:5599" for rank in range(setting.ranks))
        self.peers = tuple(endpoint.encode() for endpoint in self.endpoints)
        self.pixels = bytes(setting.group_bytes)
        self.behind: dict[Line, SimulatedProducer] = {}
        self.recoveries: list[float] = []
        self.num_steps = self.num_lost = 0
        self._rank_of = {peer: rank for rank, peer in enumerate(self.peers)}
        self._stepping = False
        self._lives = 0
        self._pace = 0.0
        """Images/s of the producers that are there and loaded."""
        self._made = 0.0
        """Images that these could have made."""
        self._made_at = 0.0
        self.ranks = [SimulatedRank(self, rank) for rank in range(setting.ranks)]
        spread = setting.spread
        self._paces = [
            setting.images_per_s * self.random.uniform(1 - spread, 1 + spread) for _ in range(setting.producers)
        ]
        self.producers: list[SimulatedProducer] = []
        for number in range(setting.producers):
            self.producers.append(self._life(number))
            # They come within a few seconds, their models loaded.
            self.timeline.at(self.random.uniform(0.5, 3.0), self._load, self.producers[number])

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.timeline.now

    def _life(self, number: int) -> SimulatedProducer:
        self._lives += 1
        return SimulatedProducer(self, number, self._lives, self._paces[number])

    def dial(self, producer: SimulatedProducer, endpoint: str) -> None:
        """A producer opens a connection to a rank."""
        peer = endpoint.encode()
        if peer in producer.lines:
            self.hang_up(producer, endpoint)
        rank = self._rank_of[peer]
        line = producer.lines[peer] = Line(b"%d.%d" % (producer.life, rank), rank)
        self.behind[line] = producer
        self.ranks[rank].lines[line.identity] = line

    def hang_up(self, producer: SimulatedProducer, endpoint: str) -> None:
        """A producer closes one connection, after what it has sent there."""
        line = producer.lines.pop(endpoint.encode())
        self.timeline.at(self.now + self.setting.latency_s, self._close, [line])

    def _missing_s(self) -> float:
        """How long the longest has been missing that a lost producer held."""
        lost_at = [at for rank in self.ranks for at in rank.lost_at.values()]
        return self.now - min(lost_at, default=self.now)

    # --- ends and beginnings ------------------------------------------------------------------------------------------

    def _load(self, producer: SimulatedProducer) -> None:
        if not producer.gone:
            producer.load()
            self._change_pace(producer.images_per_s)

    def _change_pace(self, change: float) -> None:
        self._made += self._pace * (self.now - self._made_at)
        self._made_at = self.now
        self._pace += change

    def lose(self, loss: Loss) -> None:
        """One producer is lost, in one of the ways that `churn` knows; another comes in its place."""
        producer = self.producers[loss.number]
        if producer.gone or producer.draining or not producer.loaded:
            return
        self.num_lost += 1
        if loss.how == "notice":
            producer.drain()  # what it has begun it may finish, and it counts until it leaves
            return
        self._change_pace(-producer.images_per_s)
        for line in producer.lines.values():
            self.ranks[line.rank].lose(line)
        if loss.how == "cut":
            for line in producer.lines.values():
                line.cut_until = self.now + CUT_S
            self.timeline.at(self.now + CUT_S, self._change_pace, producer.images_per_s)
            return
        self._bury(producer, NOTICES_S if loss.how == "vanish" else self.setting.latency_s)

    def end(self, producer: SimulatedProducer) -> None:
        """A producer has drained and left."""
        self._change_pace(-producer.images_per_s)
        self._bury(producer, self.setting.latency_s)

    def _bury(self, producer: SimulatedProducer, noticed_after_s: float) -> None:
        producer.gone = True
        self.timeline.at(self.now + noticed_after_s, self._close, list(producer.lines.values()))
        self.timeline.at(self.now + self.setting.replace_s, self._replace, producer.number)

    def _close(self, lines: Sequence[Line]) -> None:
        for line in lines:
            line.closed = True
            self.behind.pop(line, None)

    def _replace(self, number: int) -> None:
        producer = self.producers[number] = self._life(number)
        self.timeline.at(self.now + self.setting.load_s, self._load, producer)

    # --- the trainer --------------------------------------------------------------------------------------------------

    def step_if_ready(self) -> None:
        """All ranks step together, once each has its groups and the step before is done."""
        if self._stepping or not all(rank.prepared for rank in self.ranks):
            return
        self._stepping = True
        self.num_steps += 1
        setting = self.setting
        images = setting.groups_per_rank * setting.ranks * setting.images_per_group
        seconds = images / (setting.trainer_share * setting.producers * setting.images_per_s)
        self.timeline.at(self.now + seconds, self._stepped)
        for rank in self.ranks:
            rank.step()

    def _stepped(self) -> None:
        self._stepping = False
        self.step_if_ready()

    # --- the run ------------------------------------------------------------------------------------------------------

    def run(self, losses: Sequence[Loss], warmup_s: float, measured_s: float) -> Outcome:
        """Let time pass, and say what came of the part that is measured."""
        for loss in losses:
            self.timeline.at(loss.at, self.lose, loss)
        self.timeline.run(warmup_s)
        self._change_pace(0.0)
        before = [(rank.host.num_messages, rank.host.num_bytes, rank.host.cpu_s) for rank in self.ranks]
        made, steps, lost = self._made, self.num_steps, self.num_lost
        came = sum(rank.num_images for rank in self.ranks)
        self.recoveries.clear()
        self.timeline.run(warmup_s + measured_s)
        self._change_pace(0.0)
        setting, hosts = self.setting, [rank.host for rank in self.ranks]
        taken = (self.num_steps - steps) * setting.groups_per_rank * setting.ranks * setting.images_per_group
        arrived = sum(rank.num_images for rank in self.ranks) - came
        cpus = [(host.cpu_s - earlier[2]) / measured_s for host, earlier in zip(hosts, before, strict=True)]
        messages = sum(host.num_messages - earlier[0] for host, earlier in zip(hosts, before, strict=True))
        nbytes = sum(host.num_bytes - earlier[1] for host, earlier in zip(hosts, before, strict=True))
        return Outcome(
            ideal_images_per_s=(self._made - made) / measured_s,
            # What lay in the windows must not count, neither way.
            images_per_s=min(taken, arrived) / measured_s,
            lost=self.num_lost - lost,
            recovery_s=_spread(self.recoveries, self._missing_s()),
            messages_per_s=messages / measured_s / setting.ranks,
            bytes_per_s=nbytes / measured_s / setting.ranks,
            cpu=sum(cpus) / len(cpus),
            busiest_cpu=max(cpus),
            expired=sum(rank.machine.expired for rank in self.ranks),
            hedged=sum(rank.machine.hedged for rank in self.ranks),
            producers_per_rank=sum(len(rank.machine.peers) for rank in self.ranks) / setting.ranks,
            simulated_events=self.timeline.num_events,
        )


def _spread(seconds: Sequence[float], missing_s: float) -> tuple[float, float, float] | None:
    if len(seconds) < 2:
        return None
    parts = quantiles(seconds, n=100, method="inclusive")
    return parts[49], parts[94], max(*seconds, missing_s)
