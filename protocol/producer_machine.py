"""The producer's side of the protocol: which ranks it serves, which tickets it holds, which groups are on their way.

A pure state machine: events and the time in, actions out. A link to a rank goes HELLO → READY and back to HELLO
when the rank falls silent; BYE or REJECT ends it. Held tickets are served earliest `need_by_step` first across all
ranks, so no rank starves another. Times are seconds on the caller's monotonic clock.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from penstock.protocol.actions import Action, Buffer, Connect, Finished, Note, Send
from penstock.protocol.messages import (
    Ack,
    Bye,
    Header,
    Heartbeat,
    Hello,
    Message,
    Nack,
    Ready,
    Reject,
    Result,
    Started,
    Tickets,
    Welcome,
)
from penstock.protocol.tickets import Manifest, Ticket


class LinkState(Enum):
    """Where the talk with one rank stands."""

    HELLO = auto()
    READY = auto()
    ENDED = auto()


@dataclass(slots=True)
class Link:
    """One rank as a producer sees it."""

    endpoint: str
    state: LinkState = LinkState.HELLO
    run: str = ""
    incarnation: int = 0
    rank: int = -1
    heartbeat_s: float = 1.0
    lease_s: float = 10.0
    said_at: float = float("-inf")
    heard_at: float = float("-inf")
    sent: dict[tuple[int, int], tuple[float, int]] = field(default_factory=dict)
    """Groups sent and not yet acknowledged: (index, attempt) to the time they were sent and their bytes."""


@dataclass(frozen=True, slots=True)
class HeldTicket:
    """A ticket in a producer's hands, with the rank it belongs to and the life of that rank that asked."""

    peer: bytes
    incarnation: int
    ticket: Ticket


class ProducerMachine:
    """State machine of one producer.

    Args:
        name: the producer's name in logs and metrics.
        manifest: what its engine is; sent in HELLO.
        credit_groups: tickets it will hold at a time for each rank.
        credit_bytes: bytes of groups it will hold at a time for each rank.
    """

    def __init__(self, *, name: str, manifest: Manifest, credit_groups: int, credit_bytes: int) -> None:
        self.name = name
        self.manifest = manifest
        self.credit_groups = credit_groups
        self.credit_bytes = credit_bytes
        self.links: dict[bytes, Link] = {}
        self._queue: list[HeldTicket] = []
        self._running: list[HeldTicket] = []

    @property
    def num_queued(self) -> int:
        """Tickets held whose work has not begun."""
        return len(self._queue)

    @property
    def num_queued_images(self) -> int:
        """Images of the tickets whose work has not begun."""
        return sum(held.ticket.recipe.num_images for held in self._queue)

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes of finished groups that no rank has acknowledged yet."""
        return sum(nbytes for link in self.links.values() for _, nbytes in link.sent.values())

    @property
    def connected(self) -> bool:
        """Whether any rank has welcomed this producer and is still there."""
        return any(link.state is LinkState.READY for link in self.links.values())

    def header(self, peer: bytes) -> Header:
        """The fences of a message to `peer`, without its sequence number."""
        link = self.links[peer]
        return Header(run=link.run, incarnation=link.incarnation)

    def connect(self, endpoint: str) -> list[Action]:
        """Start to serve the rank at `endpoint`, unless this producer does already."""
        if endpoint.encode() in self.links:
            return []
        self.links[endpoint.encode()] = Link(endpoint)
        return [Connect(endpoint)]

    # --- work ---------------------------------------------------------------------------------------------------------

    def take(self, max_images: int) -> tuple[list[HeldTicket], list[Action]]:
        """Begin the most urgent tickets that fit one batch of `max_images` images and can share it.

        Tickets share a batch where all but prompt, seed and place agree. A group larger than a batch goes alone.
        Nothing begins while more finished bytes than the credit wait for their ranks: a slow link holds the engine
        back.
        """
        if not self._queue or self.unacknowledged_bytes >= self.credit_bytes:
            return [], []
        self._queue.sort(key=lambda held: (held.ticket.need_by_step, held.ticket.index))
        batch: list[HeldTicket] = []
        room = max_images
        for held in self._queue:
            images = held.ticket.recipe.num_images
            if batch and (images > room or _batch_key(held.ticket) != _batch_key(batch[0].ticket)):
                continue
            batch.append(held)
            room -= images
            if room <= 0:
                break
        taken = {id(held) for held in batch}
        self._queue = [held for held in self._queue if id(held) not in taken]
        self._running += batch
        actions: list[Action] = []
        for peer in dict.fromkeys(held.peer for held in batch):
            indices = tuple(held.ticket.index for held in batch if held.peer == peer)
            actions.append(Send(peer, Started(indices=indices)))
        return batch, actions

    def finish(self, held: HeldTicket, payload: Buffer, crc32: int, seconds: float, now: float) -> list[Action]:
        """Send a finished group, unless its rank has gone or begun another life."""
        if not self._drop_running(held):
            return []
        ticket = held.ticket
        self.links[held.peer].sent[ticket.index, ticket.attempt] = (now, ticket.recipe.nbytes)
        result = Result(
            index=ticket.index,
            attempt=ticket.attempt,
            shape=ticket.recipe.shape,
            crc32=crc32,
            seconds=seconds,
        )
        return [Send(held.peer, result, payload)]

    def fail(self, held: HeldTicket, reason: str) -> list[Action]:
        """Give back a ticket that this producer cannot make."""
        if not self._drop_running(held):
            return []
        ticket = held.ticket
        return [Send(held.peer, Nack(index=ticket.index, attempt=ticket.attempt, reason=reason, retryable=True))]

    def _drop_running(self, held: HeldTicket) -> bool:
        """Forget a running ticket; False where its rank no longer waits for it."""
        if not any(other is held for other in self._running):
            return False
        self._running = [other for other in self._running if other is not held]
        link = self.links[held.peer]
        return link.state is LinkState.READY and link.incarnation == held.incarnation

    def leave(self, reason: str) -> list[Action]:
        """Say BYE to every rank; what is held goes back."""
        ready = [peer for peer, link in self.links.items() if link.state is LinkState.READY]
        for peer in self.links:
            self._end(peer)
        return [Send(peer, Bye(reason=reason)) for peer in ready]

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Let time pass: say HELLO where nobody has answered, name the held tickets, notice silent ranks."""
        actions: list[Action] = []
        for peer, link in self.links.items():
            if link.state is LinkState.READY and now - link.heard_at > link.lease_s:
                actions.append(Note(f"{link.endpoint} has been silent for {now - link.heard_at:.0f} s", warning=True))
                self._restart(peer)
            if link.state is LinkState.ENDED or now - link.said_at < link.heartbeat_s:
                continue
            link.said_at = now
            if link.state is LinkState.HELLO:
                actions.append(Send(peer, Hello(producer=self.name, manifest=self.manifest)))
            else:
                link.sent = {key: sent for key, sent in link.sent.items() if now - sent[0] < link.lease_s}
                actions.append(Send(peer, Heartbeat(held=self._held_for(peer))))
        return actions

    def _held_for(self, peer: bytes) -> tuple[int, ...]:
        held = {held.ticket.index for held in (*self._queue, *self._running) if held.peer == peer}
        return tuple(sorted(held | {index for index, _ in self.links[peer].sent}))

    # --- what the wire says -------------------------------------------------------------------------------------------

    def on_message(self, peer: bytes, header: Header, message: Message, now: float) -> list[Action]:
        """Take one decoded message from the rank behind `peer`."""
        link = self.links[peer]
        if link.state is LinkState.ENDED:
            return []
        if isinstance(message, Reject):
            self._end(peer)
            return [
                Note(f"{link.endpoint} refused: {message.reason}", warning=True),
                *self._finished(message.reason, True),
            ]
        if isinstance(message, Welcome):
            return self._on_welcome(peer, link, header, message, now)
        if link.state is not LinkState.READY:
            return []
        if isinstance(message, Nack) and _asks_for_hello(message) and header.incarnation > link.incarnation:
            self._restart(peer)
            return [Note(f"{link.endpoint} has begun another life")]
        if (header.run, header.incarnation) != (link.run, link.incarnation):
            return []
        link.heard_at = now
        match message:
            case Tickets():
                held = (HeldTicket(peer, link.incarnation, ticket) for ticket in message.tickets)
                self._queue += held
            case Heartbeat():
                wanted = set(message.held)
                self._queue = [h for h in self._queue if h.peer != peer or h.ticket.index in wanted]
            case Ack():
                link.sent.pop((message.index, message.attempt), None)
            case Nack():
                link.sent.pop((message.index, message.attempt), None)
                if _asks_for_hello(message):
                    self._restart(peer)
                return [Note(f"{link.endpoint} dropped a message: {message.reason}", warning=True)]
            case Bye():
                self._end(peer)
                # The rank waits for the answer before it hangs up: a connection that ends takes what is unread with it.
                farewell: list[Action] = [Send(peer, Bye(reason="the rank left"))]
                farewell.append(Note(f"{link.endpoint} said goodbye: {message.reason}"))
                return farewell + self._finished(message.reason, False)
        return []

    def _on_welcome(self, peer: bytes, link: Link, header: Header, welcome: Welcome, now: float) -> list[Action]:
        if link.state is LinkState.READY and (header.run, header.incarnation) == (link.run, link.incarnation):
            # The answer to a second HELLO: the rank has forgotten what it gave us.
            self._restart(peer)
        link.state = LinkState.READY
        link.run, link.incarnation, link.rank = header.run, header.incarnation, welcome.rank
        link.heartbeat_s, link.lease_s = welcome.heartbeat_ms / 1000, welcome.lease_ms / 1000
        link.heard_at = now
        actions: list[Action] = [Note(f"serves rank {welcome.rank} of {welcome.world_size} at {link.endpoint}")]
        actions.append(Send(peer, Ready(credit_groups=self.credit_groups, credit_bytes=self.credit_bytes)))
        # By rank, not by address: one host has several names.
        life = (header.run, header.incarnation)
        served = {other.rank for other in self.links.values() if (other.run, other.incarnation) == life}
        for rank, endpoint in enumerate(welcome.endpoints):
            if rank not in served:
                actions += self.connect(endpoint)
        return actions

    # --- bookkeeping --------------------------------------------------------------------------------------------------

    def _restart(self, peer: bytes) -> None:
        """Back to HELLO: nothing that the rank asked for before counts any more."""
        self._void(peer)
        self.links[peer].state = LinkState.HELLO

    def _end(self, peer: bytes) -> None:
        self._void(peer)
        self.links[peer].state = LinkState.ENDED

    def _void(self, peer: bytes) -> None:
        self._queue = [held for held in self._queue if held.peer != peer]
        self._running = [held for held in self._running if held.peer != peer]
        self.links[peer].sent.clear()

    def _finished(self, reason: str, rejected: bool) -> list[Action]:
        # A rank that does not answer either has crashed or has never come; the run is over without it.
        if any(link.state is LinkState.READY for link in self.links.values()):
            return []
        return [Finished(reason, rejected)]


def _asks_for_hello(nack: Nack) -> bool:
    return nack.index == -1 and nack.retryable


def _batch_key(ticket: Ticket) -> tuple[object, ...]:
    """What must agree for two tickets to share a batch."""
    recipe = ticket.recipe
    return (
        recipe.guidance_scale,
        recipe.num_inference_steps,
        recipe.scheduler,
        recipe.height,
        recipe.width,
        recipe.model_digest,
    )
