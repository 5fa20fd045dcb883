"""A simulated rank: its real state machine, and what `GroupStream` and the prefetcher do around it."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from penstock.protocol.actions import Action, Deliver, Fail, Note, Quarantine, Send
from penstock.protocol.admission import Expectation
from penstock.protocol.inspection import Pixels
from penstock.protocol.messages import Ack, Cancel, Header, Heartbeat, Message, Result, Tickets
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.tickets import Ticket
from simulation.costs import recipe
from simulation.network import Host, Line

if TYPE_CHECKING:
    from simulation.world import World

PROGRAM_TICK_S = 0.05


class SimulationError(Exception):
    """A machine has said that it cannot go on."""


class SimulatedRank:
    """One rank of a world."""

    def __init__(self, world: "World", rank: int) -> None:
        setting = world.setting
        self._world = world
        self.rank = rank
        self.host = Host(setting.rank_bytes_per_s)
        self.machine = RankMachine(
            run_id="simulated",
            incarnation=1,
            rank=rank,
            endpoints=world.endpoints,
            expects=Expectation(),
            order=setting.order,
            window_groups=setting.rank_window,
            window_bytes=2 * setting.rank_window * setting.group_bytes,
            patience=setting.patience,
        )
        self.lines: dict[bytes, Line] = {}
        self.prepared = False
        """A step's groups are taken and wait for the step."""
        self.num_images = 0
        """That have come."""
        self.num_notes = 0
        self.lost_at: dict[int, float] = {}
        """When the producer was lost that held a ticket, by index, until its group comes."""
        self._recipe = recipe(setting.images_per_group, setting.group_bytes)
        self._untaken: deque[int] = deque()
        self._num_planned = 0
        self._header = Header(run="simulated", incarnation=1)
        world.timeline.at(world.random.uniform(0, setting.tick_s), self._tick)

    def _tick(self) -> None:
        world, tick_s = self._world, self._world.setting.tick_s
        num_ticks = tick_s / PROGRAM_TICK_S
        self.host.work(world.now, num_ticks * world.machine_costs.tick(len(self.machine.peers)))
        self.top_up()
        self.perform(self.machine.tick(world.now))
        world.timeline.at(world.now + tick_s, self._tick)

    def hear(self, line: Line, header: Header, message: Message) -> None:
        """A message has come; of a group the pixels are what they should be."""
        now, outcome = self._world.now, None
        if isinstance(message, Result) and self.machine.wanted(line.identity, header, message) is not None:
            outcome = Pixels(self._world.pixels, len(self._world.pixels))
        self.perform(self.machine.on_message(line.identity, header, message, outcome, now))
        if outcome is not None:
            self._prepare()
            self._world.step_if_ready()

    def top_up(self) -> None:
        """Plan until the window is full, as the stream does."""
        setting, nbytes = self._world.setting, self._recipe.nbytes
        while self.machine.room_for(nbytes):
            step = self._num_planned // setting.groups_per_rank
            index = self.rank + setting.ranks * self._num_planned
            self.machine.plan(Ticket(index=index, rank=self.rank, need_by_step=step, recipe=self._recipe))
            self._num_planned += 1

    def _prepare(self) -> None:
        """Take the next step's groups, once they are here and the step before has begun."""
        num_groups = self._world.setting.groups_per_rank
        if not self.prepared and len(self._untaken) >= num_groups:
            for _ in range(num_groups):
                self.machine.take(self._untaken.popleft())
            self.prepared = True
            self.top_up()
            self.perform(self.machine.issue(self._world.now))

    def step(self) -> None:
        """The step has begun: the next may be prepared."""
        self.prepared = False
        self._prepare()

    def lose(self, line: Line) -> None:
        """The producer behind this line is lost without a word: remember which tickets wait for another."""
        peer = self.machine.peers.get(line.identity)
        for index in peer.held if peer else ():
            self.lost_at.setdefault(index, self._world.now)

    def perform(self, actions: Sequence[Action]) -> None:
        """Do what the machine asks for."""
        messages = [action.message for action in actions if isinstance(action, Send)]
        if num_given := sum(len(message.tickets) for message in messages if isinstance(message, Tickets)):
            self.host.work(self._world.now, self._world.machine_costs.hand_out(len(self.machine.peers), num_given))
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Deliver():
                    index = action.ticket.index
                    self._untaken.append(index)
                    self.num_images += action.ticket.recipe.num_images
                    if index in self.lost_at:
                        self._world.recoveries.append(self._world.now - self.lost_at.pop(index))
                case Quarantine():
                    self.machine.stand_in(replace(action.ticket, stand_in=action.ticket.stand_in + 1))
                case Fail():
                    raise SimulationError(action.text)
                case Note():
                    self.num_notes += 1
                case _:
                    raise TypeError(f"a simulated rank does not know the action {action!r}")

    def _send(self, action: Send) -> None:
        line = self.lines.get(action.peer)
        world, costs, message = self._world, self._world.costs, action.message
        say_s, nbytes = costs.say_s, costs.small_bytes
        match message:
            case Tickets():
                say_s += costs.ticket_s * len(message.tickets)
                nbytes += costs.ticket_bytes * len(message.tickets)
            case Heartbeat():
                nbytes += costs.attempt_bytes * len(message.held)
            case Ack() | Cancel():
                nbytes += costs.attempt_bytes * len(message.attempts)
        self.host.work(world.now, say_s)
        if line is None or line.closed:
            self.lines.pop(action.peer, None)
            self.perform(self.machine.on_unreachable(action.peer))
            return
        producer = world.behind[line]
        world.network.send(line, self.host, producer.host, nbytes, 0.0, producer.hear, line, self._header, message)
