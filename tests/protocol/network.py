"""Ranks and producers over a simulated network that delays, loses, repeats, breaks and freezes; the clock is a test's.

The shells around the machines are as thin as the real ones: what a machine asks for is done to the letter, messages
travel as objects in two queues for each connection, engines and trainers work when they are told to.
"""

import zlib
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from penstock.protocol.actions import Action, Buffer, Connect, Deliver, Disconnect, Finished, Note, Quarantine, Send
from penstock.protocol.admission import Expectation
from penstock.protocol.dispatcher import Patience
from penstock.protocol.image_codec import RAW, CodedImages
from penstock.protocol.links import HeldTicket
from penstock.protocol.messages import Header, Message, Result, Tickets
from penstock.protocol.producer_machine import ProducerMachine
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.tickets import IMAGES, Attempt, Manifest, Ticket
from tests.protocol.desk import hear
from tests.protocol.samples import MANIFEST, RECIPE

ENDPOINTS = ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")
NUM_PRODUCERS = 3
CREDIT_GROUPS = 3
PATIENCE = Patience(
    heartbeat_s=1.0,
    lease_s=4.0,
    cold_start_s=20.0,
    hedge_after_groups=3,
    max_attempts=3,
    max_quarantined=10**6,
    max_bad_results=3,
)
BATCH_IMAGES = 8
Order = Literal["ticket", "arrival"]
Spoil = Literal["no", "checksum", "shape", "blank", "fail"]


REAL_MANIFEST = replace(MANIFEST, model="photos", model_digest="d2", backend=IMAGES)
REAL_EVERY = 3
"""In a run with real images, one index in so many is real."""
REAL_PRODUCER = NUM_PRODUCERS - 1
"""The producer that serves the real images, where there are any."""


def ticket_at(index: int, num_ranks: int, stand_in: int = 0, *, mixed: bool = False) -> Ticket:
    """All groups of a run are equally large; a window of two of them leaves room for a hedge."""
    manifest = REAL_MANIFEST if mixed and index % REAL_EVERY == 0 else MANIFEST
    recipe = replace(RECIPE, num_images=4, height=2, width=2, model_digest=manifest.model_digest)
    return Ticket(index=index, rank=index % num_ranks, need_by_step=index // 4, stand_in=stand_in, recipe=recipe)


GROUP_BYTES = ticket_at(0, 1).recipe.nbytes
CREDIT_BYTES = 2 * GROUP_BYTES + 1


def pixels_of(ticket: Ticket) -> bytes:
    """What every sound producer makes of a ticket."""
    return bytes([1 + (5 * ticket.index + ticket.stand_in) % 255]) * ticket.recipe.nbytes


def poison(ticket: Ticket) -> Literal["", "nack", "crash", "blank"]:
    """What a ticket does to whoever works on it. Its stand-in is harmless."""
    if ticket.stand_in:
        return ""
    return {5: "nack", 12: "crash", 19: "blank"}.get(ticket.index % 23, "")  # type: ignore[return-value]


@dataclass(slots=True)
class Line:
    """One connection of a producer with a rank, and the name that the rank has for it."""

    identity: bytes
    up: deque[tuple[Header, Message, Buffer | None]] = field(default_factory=deque)
    down: deque[tuple[Header, Message]] = field(default_factory=deque)


class SimRank:
    """One life of a rank, and its trainer."""

    def __init__(
        self, number: int, num_ranks: int, life: int, order: Order, window: tuple[int, int], *, mixed: bool
    ) -> None:
        self.number = number
        self.machine = RankMachine(
            run_id="run",
            incarnation=life,
            rank=number,
            endpoints=ENDPOINTS[:num_ranks],
            expects=Expectation(),
            real=Expectation(model_digest=REAL_MANIFEST.model_digest) if mixed else None,
            order=order,
            window_groups=window[0],
            window_bytes=window[1],
            patience=PATIENCE,
        )
        self.todo: deque[int] = deque()
        """Uses that are planned and not asked for yet."""
        self.asked: list[int] = []
        self.delivered: list[int] = []
        self.untaken: deque[Ticket] = deque()
        self.stand_ins: Counter[int] = Counter()
        self.frozen = False
        self.takes = True


class SimProducer:
    """One life of a producer, and its engine."""

    def __init__(self, name: str, manifest: Manifest = MANIFEST) -> None:
        self.machine = ProducerMachine(
            name=name, manifest=manifest, credit_groups=CREDIT_GROUPS, credit_bytes=CREDIT_BYTES
        )
        self.seq = 0
        self.frozen = False
        self.hung = False
        self.draining = False
        self.making: list[HeldTicket] = []


class World:
    """Everything, and what can be done to it."""

    def __init__(
        self, num_ranks: int, order: Order, window: tuple[int, int], num_indices: int, *, mixed: bool = False
    ) -> None:
        self.now = 0.0
        self.mixed = mixed
        self.num_ranks, self.order, self.window = num_ranks, order, window
        self.uses: Counter[int] = Counter(range(num_indices))
        self.consumed: Counter[int] = Counter()
        self.unasked_since: dict[tuple[int, bytes, Attempt], float] = {}
        self._lives = 0
        self._half_open: set[bytes] = set()
        self.lines: dict[tuple[int, int], Line] = {}
        self.ranks = [self._new_rank(number) for number in range(num_ranks)]
        self.producers: list[SimProducer] = []
        for number in range(NUM_PRODUCERS):
            self.producers.append(SimProducer(""))
            self.start_producer(number)
            self.has_loaded(number)

    def _life(self) -> int:
        self._lives += 1
        return self._lives

    # --- beginnings and ends ------------------------------------------------------------------------------------------

    def _new_rank(self, number: int) -> SimRank:
        rank = SimRank(number, self.num_ranks, self._life(), self.order, self.window, mixed=self.mixed)
        rank.todo.extend(
            index for index in sorted((self.uses - self.consumed).elements()) if index % self.num_ranks == number
        )
        return rank

    def restart_rank(self, number: int) -> None:
        """The rank dies, and what lay in its memory with it; another life plans whatever was not consumed."""
        self.ranks[number] = self._new_rank(number)
        for producer, rank in list(self.lines):
            if rank == number:
                self._dial(producer, rank)

    def start_producer(self, number: int) -> None:
        """A new process in the place of the old one, whose connections are gone."""
        for key in [key for key in self.lines if key[0] == number]:
            del self.lines[key]
        self.producers[number] = SimProducer(f"p{number}.{self._life()}", self.manifest(number))
        self.producer_acts(number, self.producers[number].machine.connect(ENDPOINTS[0]))

    def manifest(self, number: int) -> Manifest:
        """What a producer serves."""
        return REAL_MANIFEST if self.mixed and number == REAL_PRODUCER else MANIFEST

    def break_line(self, producer: int, rank: int, *, noticed: bool) -> None:
        """The connection ends; the rank hears of it when it next sends, or (a half-open one) never."""
        if (producer, rank) in self.lines:
            if not noticed:
                self._half_open.add(self.lines[producer, rank].identity)
            self._dial(producer, rank)

    def _dial(self, producer: int, rank: int) -> None:
        self.lines[producer, rank] = Line(b"%d.%d.%d" % (producer, rank, self._life()))

    # --- shells -------------------------------------------------------------------------------------------------------

    def rank_acts(self, rank: SimRank, actions: Sequence[Action]) -> None:
        """Do what a rank's machine asks for."""
        for action in actions:
            match action:
                case Send():
                    self._send_down(rank, action)
                case Deliver():
                    ticket = action.ticket
                    assert ticket.stand_in == rank.stand_ins[ticket.index], "what was replaced must not come"
                    assert bytes(action.payload) == pixels_of(ticket)
                    rank.delivered.append(ticket.index)
                    rank.untaken.append(ticket)
                case Quarantine():
                    index = action.ticket.index
                    rank.stand_ins[index] += 1
                    rank.machine.stand_in(ticket_at(index, self.num_ranks, rank.stand_ins[index], mixed=self.mixed))
                case _:
                    assert isinstance(action, Note), action

    def _send_down(self, rank: SimRank, action: Send) -> None:
        for (producer, number), line in self.lines.items():
            if number == rank.number and line.identity == action.peer:
                if isinstance(action.message, Tickets):
                    asked = {ticket.recipe.model_digest for ticket in action.message.tickets}
                    assert asked == {self.manifest(producer).model_digest}, (
                        "a ticket goes only to its model's producers"
                    )
                line.down.append((Header(run="run", incarnation=rank.machine.incarnation), action.message))
                return
        if action.peer not in self._half_open:
            self.rank_acts(rank, rank.machine.on_unreachable(action.peer))

    def producer_acts(self, number: int, actions: Sequence[Action]) -> None:
        """Do what a producer's machine asks for. One that has finished is started anew."""
        producer = self.producers[number]
        for action in actions:
            match action:
                case Send():
                    producer.seq += 1
                    header = replace(producer.machine.header(action.peer), seq=producer.seq)
                    rank = ENDPOINTS.index(action.peer.decode())
                    self.lines[number, rank].up.append((header, action.message, action.payload))
                case Connect():
                    self._dial(number, ENDPOINTS.index(action.endpoint))
                case Disconnect():
                    del self.lines[number, ENDPOINTS.index(action.endpoint)]
                case Finished():
                    self.start_producer(number)
                    return
                case _:
                    assert isinstance(action, Note), action

    def hear_up(self, producer: int, rank: int) -> bool:
        """The rank reads one message; False where there is none, or where it does not read."""
        line = self.lines.get((producer, rank))
        if line is None or not line.up or self.ranks[rank].frozen:
            return False
        header, message, payload = line.up.popleft()
        machine = self.ranks[rank].machine
        self.rank_acts(self.ranks[rank], hear(machine, line.identity, header, message, payload, self.now))
        return True

    def hear_down(self, producer: int, rank: int) -> bool:
        """The producer reads one message; False where there is none, or where it does not read."""
        line = self.lines.get((producer, rank))
        if line is None or not line.down or self.producers[producer].frozen:
            return False
        header, message = line.down.popleft()
        machine = self.producers[producer].machine
        self.producer_acts(producer, machine.on_message(ENDPOINTS[rank].encode(), header, message, self.now))
        return True

    def talk(self) -> None:
        """Every message on its way arrives, and its answers too."""
        heard = [True]
        while any(heard):
            heard = [hear(*key) for key in list(self.lines) for hear in (self.hear_up, self.hear_down)]

    def tick(self) -> None:
        """Time passes for whoever is not frozen."""
        for rank in self.ranks:
            if not rank.frozen:
                self.top_up(rank)
                self.rank_acts(rank, rank.machine.tick(self.now))
        for number, producer in enumerate(self.producers):
            if not producer.frozen:
                self.producer_acts(number, producer.machine.tick(self.now))

    # --- trainers and engines -----------------------------------------------------------------------------------------

    def top_up(self, rank: SimRank) -> None:
        """Plan as the stream does; a second use of an index waits until the first is taken."""
        while rank.todo:
            ticket = ticket_at(rank.todo[0], self.num_ranks, mixed=self.mixed)
            pending = ticket.index in rank.asked and rank.asked.count(ticket.index) > rank.delivered.count(ticket.index)
            lies_there = any(other.index == ticket.index for other in rank.untaken)
            if pending or lies_there or not rank.machine.room_for(ticket.recipe.nbytes):
                return
            rank.stand_ins[ticket.index] = 0
            rank.machine.plan(ticket)
            rank.asked.append(rank.todo.popleft())

    def take(self, rank: SimRank) -> None:
        """The trainer takes one group."""
        if rank.untaken and not rank.frozen:
            ticket = rank.untaken.popleft()
            rank.machine.take(ticket.index)
            self.consumed[ticket.index] += 1

    def say_free(self, number: int) -> None:
        """The main thread of a producer comes by: its engine is free. One that hangs never comes by."""
        if not self.producers[number].hung:
            self.producer_acts(number, self.producers[number].machine.free())

    def has_loaded(self, number: int) -> None:
        """The main thread of a producer has loaded the engine; one that hangs does not get so far."""
        if not self.producers[number].hung:
            self.producer_acts(number, self.producers[number].machine.loaded())

    def begin_work(self, number: int) -> None:
        """The engine, if it is free, begins a batch."""
        producer = self.producers[number]
        if not producer.frozen and not producer.hung and not producer.making:
            self.say_free(number)
            batch, actions = producer.machine.take(BATCH_IMAGES)
            producer.making = list(batch)
            self.producer_acts(number, actions)

    def end_work(self, number: int, spoil: Spoil = "no") -> None:
        """The engine finishes its batch, well or not."""
        producer = self.producers[number]
        if producer.frozen or producer.hung:
            return
        batch, producer.making = producer.making, []
        if any(poison(held.ticket) == "crash" for held in batch):
            self.start_producer(number)
            self.has_loaded(number)
            return
        for held in batch:
            nature = poison(held.ticket)
            if nature == "nack" or spoil == "fail":
                actions = producer.machine.fail(held, "out of luck")
            else:
                actions = self._finished(producer, held, "blank" if nature == "blank" else spoil)
            self.producer_acts(number, actions)

    def _finished(self, producer: SimProducer, held: HeldTicket, spoil: Spoil) -> list[Action]:
        payload = bytes(held.ticket.recipe.nbytes) if spoil == "blank" else pixels_of(held.ticket)
        crc32 = zlib.crc32(payload) ^ (spoil == "checksum")
        actions = producer.machine.finish(held, CodedImages(RAW, (), payload), crc32, 0.1, self.now)
        if spoil != "shape":
            return actions
        return [
            replace(action, message=replace(action.message, shape=(*action.message.shape[:-1], 4)))
            for action in actions
            if isinstance(action, Send) and isinstance(action.message, Result)
        ]

    def end_drain(self, number: int) -> None:
        """A drained producer leaves, and another comes."""
        producer = self.producers[number]
        if producer.draining and not producer.making and producer.machine.drained:
            self.producer_acts(number, producer.machine.leave("drained"))
            for rank in range(self.num_ranks):
                while self.hear_up(number, rank):
                    pass
            self.start_producer(number)
            self.has_loaded(number)

    def calm_step(self, seconds: float = 0.5) -> None:
        """A while without faults: whoever can work works. One that hangs still hangs."""
        self.now += seconds
        for actor in (*self.ranks, *self.producers):
            actor.frozen = False
        self.talk()
        for rank in self.ranks:
            while rank.untaken:
                self.take(rank)
        for number in range(NUM_PRODUCERS):
            self.has_loaded(number)
            self.end_work(number)
            self.end_drain(number)
            self.begin_work(number)
        self.tick()
        self.talk()

    # --- observations -------------------------------------------------------------------------------------------------

    def unasked_work(self) -> dict[tuple[int, bytes, Attempt], float]:
        """What producers hold although no rank counts it as held by them, with the time since when."""
        found = {}
        for number, producer in enumerate(self.producers):
            for held in (*producer.machine._queue, *producer.machine._running):
                rank = ENDPOINTS.index(held.peer.decode())
                peer = self.ranks[rank].machine.peers.get(self.lines[number, rank].identity)
                if peer is None or peer.held.get(held.ticket.index) != held.ticket.key:
                    key = (number, held.peer, held.ticket.key)
                    found[key] = self.unasked_since.get(key, self.now)
        self.unasked_since = found
        return found
