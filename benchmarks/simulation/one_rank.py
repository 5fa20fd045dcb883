"""What one rank's real state machine costs with so many producers: CPU time and memory."""

import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from penstock.protocol.actions import Action, Deliver
from penstock.protocol.admission import Expectation
from penstock.protocol.inspection import Pixels
from penstock.protocol.messages import Header, Heartbeat, Hello, Message, Ready, Result, Started
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.tickets import Ticket
from simulation.costs import Costs, manifest, recipe
from simulation.setting import Setting

NUM_TICKETS = 64
"""Handed out in one go, as after a step."""
REPEATS = 5
NUM_LONG_KNOWN, REMEMBERED = 32, 128
"""Producers whose memory is measured, and groups that each has made by then: twice what a machine remembers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankCost:
    """With so many producers."""

    producers: int
    tick_s: float
    """CPU time of a tick, which comes 20 times a second, without the heartbeats of every 20th."""
    heartbeat_s: float
    """CPU time of the machine for one heartbeat, and for the look whether tickets can be handed out that follows it."""
    hand_out_s: float
    """CPU time to hand out 64 tickets."""
    idle_cpu: float
    """Share of a core that ticks and heartbeats take, with the codec's and the sockets' work: what producers cost that
    do nothing. (Twenty ticks and four messages for each producer a second.)"""
    bytes_per_producer: int
    """Of the machine's memory, once the producer has made as much as the machine remembers; ZeroMQ's and the kernel's
    buffers come on top."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineCosts:
    """CPU seconds of a rank's state machine, apart from what a message costs it."""

    tick_s: float
    tick_s_per_peer: float
    hand_out_s_per_peer: float
    """To look at every producer, once for all tickets that are handed out together."""
    ticket_s: float
    """To hand one of them out."""

    def tick(self, peers: int) -> float:
        """Of one tick, with so many producers."""
        return self.tick_s + self.tick_s_per_peer * peers

    def hand_out(self, peers: int, tickets: int) -> float:
        """Of so many tickets at once."""
        return self.hand_out_s_per_peer * peers + self.ticket_s * tickets


NO_COSTS = MachineCosts(tick_s=0.0, tick_s_per_peer=0.0, hand_out_s_per_peer=0.0, ticket_s=0.0)


class _Rank:
    """A rank and the words of its producers."""

    def __init__(self, setting: Setting) -> None:
        self.recipe = recipe(setting.images_per_group, setting.group_bytes)
        self.machine = RankMachine(
            run_id="simulated",
            incarnation=1,
            rank=0,
            endpoints=tuple(f"tcp://rank-{rank}:5599" for rank in range(setting.ranks)),
            expects=Expectation(),
            window_groups=1 << 20,
            window_bytes=1 << 50,
            patience=setting.patience,
        )
        self._seq, self._indices, self.now = count(1), count(), 0.0
        self._setting = setting
        self._pixels = Pixels(b"", 0)

    def say(self, who: bytes, message: Message) -> list[Action]:
        life = ("", 0) if isinstance(message, Hello) else ("simulated", 1)
        header = Header(run=life[0], incarnation=life[1], seq=next(self._seq))
        outcome = self._pixels if isinstance(message, Result) else None
        return self.machine.on_message(who, header, message, outcome, self.now)

    def join(self, who: bytes) -> None:
        self.say(who, Hello(producer=who.decode(), manifest=manifest(self._setting.batch_images)))
        self.say(who, Ready(credit_groups=self._setting.credit_groups, credit_bytes=1 << 30))

    def plan(self) -> None:
        for index in (next(self._indices) for _ in range(NUM_TICKETS)):
            self.machine.plan(Ticket(index=index, rank=0, recipe=self.recipe))

    def start_all(self) -> None:
        """Every ticket that is held has begun."""
        for who, peer in self.machine.peers.items():
            self.say(who, Started(attempts=tuple(peer.held.values())))

    def finish_all(self) -> None:
        """Every group comes and is taken."""
        for who, peer in self.machine.peers.items():
            for key in tuple(peer.held.values()):
                shape = self.recipe.shape
                result = Result(index=key.index, attempt=key.attempt, shape=shape, crc32=0, seconds=1.0)
                for action in self.say(who, result):
                    if isinstance(action, Deliver):
                        self.machine.take(action.ticket.index)


def measure(producers: int, ranks: int, costs: Costs) -> RankCost:
    """A rank of a run of so many, with so many producers."""
    setting = Setting(producers=producers, ranks=ranks)
    rank = _Rank(setting)
    names = [b"producer-%d" % number for number in range(producers)]
    for who in names:
        rank.join(who)
    rank.machine.tick(rank.now)
    rank.plan()
    rank.machine.issue(rank.now)  # what is in producers' hands costs time too
    beat = Heartbeat(held=())
    tick_s = _least(lambda: rank.machine.tick(rank.now))
    heartbeat_s = _least(lambda: [(rank.say(who, beat), rank.machine.issue(rank.now)) for who in names]) / producers
    hand_out_s = _hand_out_s(rank)
    messages_s = 2 * costs.hear_s + 2 * costs.say_s + heartbeat_s + costs.machine_s
    return RankCost(
        producers=producers,
        tick_s=tick_s,
        heartbeat_s=heartbeat_s,
        hand_out_s=hand_out_s,
        idle_cpu=20 * tick_s + producers * messages_s,
        bytes_per_producer=_bytes_per_producer(setting),
    )


def _bytes_per_producer(setting: Setting) -> int:
    """Of a few that are known for long: each has a manifest of its own, full hands and many durations."""
    tracemalloc.start()
    rank = _Rank(setting)
    before, _ = tracemalloc.get_traced_memory()
    for number in range(NUM_LONG_KNOWN):
        rank.join(b"producer-%d" % number)
    for _ in range(REMEMBERED * NUM_LONG_KNOWN // NUM_TICKETS):
        rank.plan()
        rank.machine.issue(rank.now)
        rank.start_all()
        rank.finish_all()
    for _ in range(setting.credit_groups * NUM_LONG_KNOWN // NUM_TICKETS):
        rank.plan()
    rank.machine.issue(rank.now)
    nbytes = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return nbytes // NUM_LONG_KNOWN


def _hand_out_s(rank: _Rank) -> float:
    spent = []
    for _ in range(REPEATS):
        rank.finish_all()
        rank.plan()
        spent.append(_cpu_s(lambda: rank.machine.issue(rank.now)))
    return min(spent)


def _least(act: Callable[[], object]) -> float:
    return min(_cpu_s(act) for _ in range(REPEATS))


def _cpu_s(act: Callable[[], object]) -> float:
    begun = time.process_time()
    act()
    return time.process_time() - begun


def machine_costs(rows: Sequence[RankCost]) -> MachineCosts:
    """Lines through the smallest and the largest fleet."""
    least, most = min(rows, key=lambda row: row.producers), max(rows, key=lambda row: row.producers)
    more = most.producers - least.producers
    tick = max(0.0, (most.tick_s - least.tick_s) / more)
    hand_out = max(0.0, (most.hand_out_s - least.hand_out_s) / more)
    return MachineCosts(
        tick_s=max(0.0, least.tick_s - tick * least.producers),
        tick_s_per_peer=tick,
        hand_out_s_per_peer=hand_out,
        ticket_s=max(0.0, least.hand_out_s - hand_out * least.producers) / NUM_TICKETS,
    )
