"""A simulated producer: its real state machine, and what `ProducerService` does around it. One object is one life."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.protocol.actions import Action, Connect, Disconnect, Finished, Note, Send
from penstock.protocol.image_codec import RAW, CodedImages
from penstock.protocol.links import HeldTicket
from penstock.protocol.messages import Header, Heartbeat, Message, Result, Started
from penstock.protocol.producer_machine import ProducerMachine
from simulation.costs import manifest
from simulation.network import Host, Line

if TYPE_CHECKING:
    from simulation.world import World


class SimulatedProducer:
    """One life of a producer of a world.

    Args:
        world: where it is.
        number: its place in the fleet.
        life: counts over all producers.
        images_per_s: its pace.
    """

    def __init__(self, world: "World", number: int, life: int, images_per_s: float) -> None:
        setting = world.setting
        self._world = world
        self.number, self.images_per_s = number, images_per_s
        self.host = Host(setting.producer_bytes_per_s)
        self.machine = ProducerMachine(
            name=f"p{number}.{life}",
            manifest=manifest(setting.batch_images),
            credit_groups=setting.credit_groups,
            credit_bytes=1 << 30,
            max_ranks=setting.max_ranks,
        )
        self.lines: dict[bytes, Line] = {}
        self.life = life
        self.loaded = self.gone = self.draining = False
        self._seq = 0
        self._working = False
        self._incomplete_since: float | None = None
        self._perform(self.machine.connect(world.endpoints[number % setting.ranks]))
        world.timeline.at(world.now + world.random.uniform(0, setting.tick_s), self._tick)

    def load(self) -> None:
        """The engine is loaded."""
        if not self.gone:
            self.loaded = True
            self._perform(self.machine.loaded())
            self.work()

    def drain(self) -> None:
        """It is asked to end: it finishes what it has begun."""
        if not self.gone:
            self.draining = True
            self._perform(self.machine.drain("its machine is wanted back"))
            self._leave_if_drained()

    def _tick(self) -> None:
        if self.gone:
            return
        world = self._world
        self._perform(self.machine.tick(world.now))
        self._leave_if_drained()
        world.timeline.at(world.now + world.setting.tick_s, self._tick)

    def _leave_if_drained(self) -> None:
        if self.draining and not self.gone and self.machine.drained:
            self._perform(self.machine.leave("drained"))
            self._world.end(self)

    def hear(self, line: Line, header: Header, message: Message) -> None:
        """A message has come."""
        if self.gone or line.closed:
            return
        self._perform(self.machine.on_message(self._world.peers[line.rank], header, message, self._world.now))
        if not self._working and self.loaded:
            self.work()

    # --- the engine ---------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Begin a batch where the engine is free and one is there; an incomplete one waits for company."""
        if self._working or self.gone or not self.loaded:
            return
        world, machine, setting = self._world, self.machine, self._world.setting
        self._perform(machine.free())
        if self.draining:
            return
        num_images = machine.num_queued_images
        if 0 < num_images < setting.batch_images:
            if self._incomplete_since is None:
                self._incomplete_since = world.now
                world.timeline.at(world.now + setting.batch_wait_s + 1e-6, self.work)
            if world.now - self._incomplete_since < setting.batch_wait_s:
                return
        self._incomplete_since = None
        batch, actions = machine.take(setting.batch_images, lambda ticket: None)
        if batch:
            self._perform(actions)
            self._working = True
            images = sum(held.ticket.recipe.num_images for held in batch)
            seconds = (setting.batch_images if setting.padding_takes_time else images) / self.images_per_s
            world.timeline.at(world.now + seconds, self._finish, batch, seconds)

    def _finish(self, batch: Sequence[HeldTicket], seconds: float) -> None:
        if self.gone:
            return
        self._working = False
        coded = CodedImages(RAW, (), self._world.pixels)
        for held in batch:
            self._perform(self.machine.finish(held, coded, 0, seconds / len(batch), self._world.now))
        self.work()
        self._leave_if_drained()

    # --- out ----------------------------------------------------------------------------------------------------------

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Connect():
                    self._world.dial(self, action.endpoint)
                case Disconnect():
                    self._world.hang_up(self, action.endpoint)
                case Finished():
                    raise RuntimeError(f"a simulated run does not end: {action.reason}")
                case Note():
                    pass
                case _:
                    raise TypeError(f"a simulated producer does not know the action {action!r}")

    def _send(self, action: Send) -> None:
        line = self.lines.get(action.peer)
        if line is None:
            return
        world, costs, message = self._world, self._world.costs, action.message
        self._seq += 1
        life = self.machine.header(action.peer)
        header = Header(run=life.run, incarnation=life.incarnation, seq=self._seq)
        hear_s, nbytes = costs.hear_s + costs.machine_s, costs.small_bytes
        match message:
            case Result():
                hear_s += costs.inspect_s_per_byte * len(world.pixels)
                nbytes += len(world.pixels)
            case Heartbeat():
                # With its STATUS, and the CLOCK that answers that.
                hear_s += costs.hear_s + costs.machine_s + costs.say_s
                nbytes += 2 * costs.small_bytes + costs.attempt_bytes * len(message.held)
            case Started():
                nbytes += costs.attempt_bytes * len(message.attempts)
        rank = world.ranks[line.rank]
        world.network.send(line, self.host, rank.host, nbytes, hear_s, rank.hear, line, header, message)
