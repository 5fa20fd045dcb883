"""The producer's side of the protocol: which tickets it holds, which groups are on their way, what it answers.

A pure state machine: events and the time in, actions out. A link to a rank goes HELLO → WARMING → READY and back to
HELLO when the rank falls silent; DRAINING hands back what was not begun; BYE or REJECT ends it. Held tickets are served
earliest `need_by_step` first across all ranks, so no rank starves another. Which ranks those are: `served_ranks`. Times
are seconds on the caller's monotonic clock. States and messages: docs/protocol.md.
"""

from collections.abc import Callable, Hashable
from math import ceil

from penstock.protocol.actions import Action, Note, Send
from penstock.protocol.batching import choose_batch, same_recipe
from penstock.protocol.clock import ClockDifference
from penstock.protocol.image_codec import CodedImages
from penstock.protocol.inspection import Tally
from penstock.protocol.links import FinishedGroup, HeldTicket, Link, LinkState, ProducerLook, look_at
from penstock.protocol.messages import (
    NO_CHOICE,
    Ack,
    Bye,
    Cancel,
    Choice,
    Drain,
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
from penstock.protocol.served_ranks import ServedRanks
from penstock.protocol.tickets import Manifest, Ticket
from penstock.protocol.watching import Clock, Status

_RANKS = 16
"""How many a producer serves where nobody says it. Were it all of very many, each rank would have a ticket or none in
its queue, by chance, and batches would be too small here and wait long there."""


class ProducerMachine(ServedRanks):
    """State machine of one producer.

    Args:
        name: the producer's name in logs and metrics.
        manifest: what its engine is; sent in HELLO.
        credit_groups: tickets it will hold at a time for all ranks; they share it evenly, and each gets one at least.
        credit_bytes: bytes of groups it will hold at a time for each rank.
        max_ranks: ranks that it serves at first; 0 for 16, or as many as `credit_groups` where those are more. When it
            has nothing to do it serves more: a rank that nobody has drawn may hold up all others.
    """

    def __init__(
        self, *, name: str, manifest: Manifest, credit_groups: int, credit_bytes: int, max_ranks: int = 0
    ) -> None:
        super().__init__(name, max_ranks or max(_RANKS, credit_groups))
        self.manifest = manifest
        self.credit_groups = credit_groups
        self.credit_bytes = credit_bytes
        self.max_ranks = max_ranks
        self._loaded = False
        self._refused = Tally()

    @property
    def num_queued_images(self) -> int:
        """Images of the tickets whose work has not begun."""
        return sum(held.ticket.recipe.num_first for held in self._queue)

    @property
    def has_queued_probe(self) -> bool:
        """Whether a ticket is waiting that costs its engine nothing."""
        return any(held.ticket.probe for held in self._queue)

    @property
    def drained(self) -> bool:
        """Whether nothing is left of what a draining producer had begun: made, sent and acknowledged."""
        return not self._running and not any(link.sent or link.waiting for link in self.links.values())

    def look(self) -> ProducerLook:
        """How it is now."""
        tickets = (len(self._queue), len(self._running))
        return look_at(list(self.links.values()), *tickets, self.credit_groups, self._refused.by_kind)

    # --- work ---------------------------------------------------------------------------------------------------------

    def loaded(self) -> list[Action]:
        """The engine can work from now on."""
        self._loaded = True
        return self.free()

    def free(self) -> list[Action]:
        """The engine is free, says its own thread: tell the ranks that are new or have cancelled something."""
        actions: list[Action] = []
        for peer, link in self.links.items():
            if self._loaded and link.owes_ready and link.state in (LinkState.WARMING, LinkState.READY):
                if link.state is LinkState.WARMING:
                    actions.append(Note(f"ready for rank {link.rank} at {link.endpoint}"))
                link.state, link.owes_ready = LinkState.READY, False
                ready = Ready(credit_groups=self._credit_of_a_rank, credit_bytes=self.credit_bytes)
                actions.append(Send(peer, ready))
        return actions

    @property
    def _credit_of_a_rank(self) -> int:
        """Tickets that it will hold for each rank: an even share of all, and at least one.

        Were it all for each, the first producers to come would get the whole window of a run of many ranks, and those
        that all ranks think the fastest would have queues while others are idle. As it is, what is planned waits at
        the rank, and goes to whoever is done.
        """
        num_ranks = len(self._drawn) or sum(not link.has_ended for link in self.links.values())
        return ceil(self.credit_groups / num_ranks)

    def take(
        self, max_images: int, company: Callable[[Ticket], Hashable] = same_recipe
    ) -> tuple[list[HeldTicket], list[Action]]:
        """Begin the most urgent tickets that fit one batch and can share it, as `choose_batch`.

        Nothing begins for a rank that owes acknowledgements for as many bytes as its credit: a slow link holds its own
        tickets back.
        """
        asking = dict.fromkeys(held.peer for held in self._queue)
        slow = {peer for peer in asking if self.links[peer].unacknowledged_bytes >= self.credit_bytes}
        queue = [held for held in self._queue if held.peer not in slow]
        batch = choose_batch(queue, max_images, company)
        taken = {id(held) for held in batch}
        self._queue = [held for held in self._queue if id(held) not in taken]
        self._running += batch
        actions: list[Action] = []
        for peer in dict.fromkeys(held.peer for held in batch):
            attempts = tuple(held.ticket.key for held in batch if held.peer == peer)
            actions.append(Send(peer, Started(attempts=attempts)))
        return batch, actions

    def finish(
        self,
        held: HeldTicket,
        images: CodedImages,
        crc32: int,
        seconds: float,
        now: float,
        choice: Choice = NO_CHOICE,
    ) -> list[Action]:
        """Send a finished group as soon as its link has room, unless its rank has gone or begun another life.

        Args:
            held: its ticket.
            images: as they travel.
            crc32: of their frame.
            seconds: its share of the batch's.
            now: the time.
            choice: what a filter chose.
        """
        if not self._drop_running(held):
            return []
        ticket = held.ticket
        result = Result(
            index=ticket.index,
            attempt=ticket.attempt,
            shape=ticket.recipe.shape,
            codec=images.codec,
            sizes=images.sizes,
            candidates=choice.candidates,
            num_made=choice.num_made,
            num_unsatisfied=choice.num_unsatisfied,
            crc32=crc32,
            seconds=seconds,
        )
        self.links[held.peer].waiting.append(FinishedGroup(ticket.recipe.nbytes, result, images.payload))
        return self._send_waiting(held.peer, now)

    def _send_waiting(self, peer: bytes, now: float) -> list[Action]:
        """Send what the link has room for. More would only make heartbeats wait, and tickets lose their leases."""
        link = self.links[peer]
        actions: list[Action] = []
        while link.waiting and link.may_send:
            group = link.send_next(now)
            actions.append(Send(peer, group.result, group.payload))
        return actions

    def fail(self, held: HeldTicket, reason: str) -> list[Action]:
        """Give back a ticket that this producer cannot make."""
        if not self._drop_running(held):
            return []
        ticket = held.ticket
        return [Send(held.peer, Nack(index=ticket.index, attempt=ticket.attempt, reason=reason, retryable=False))]

    def _drop_running(self, held: HeldTicket) -> bool:
        """Forget a running ticket; False where its rank no longer waits for it."""
        if not any(other is held for other in self._running):
            return False
        self._running = [other for other in self._running if other is not held]
        link = self.links[held.peer]
        return link.is_talking and link.incarnation == held.incarnation

    def drain(self, reason: str) -> list[Action]:
        """Take no more tickets: hand back those not begun, finish the others."""
        self._draining = reason
        peers = [peer for peer, link in self.links.items() if link.is_talking]
        return [action for peer in peers for action in self._drain(peer)]

    def _drain(self, peer: bytes) -> list[Action]:
        self.links[peer].state = LinkState.DRAINING
        returned = tuple(held.ticket.key for held in self._queue if held.peer == peer)
        self._queue = [held for held in self._queue if held.peer != peer]
        return [Send(peer, Drain(returned=returned, reason=self._draining or ""))]

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float, status: Status | None = None) -> list[Action]:
        """Let time pass: say HELLO where nobody has answered, name the held tickets, notice silent ranks.

        Args:
            now: the time.
            status: what to tell of the engine's work beside each heartbeat; None tells nothing.
        """
        actions = self._tidy() + self._widen(now)
        for peer, link in self.links.items():
            actions += self._follow(peer, link, now)
            if link.has_ended or now - link.said_at < link.heartbeat_s:
                continue
            link.said_at = now
            if link.state is LinkState.HELLO:
                actions.append(Send(peer, Hello(producer=self.name, manifest=self.manifest)))
            else:
                link.sent = {key: sent for key, sent in link.sent.items() if now - sent.at < link.lease_s}
                actions += self._send_waiting(peer, now)
                actions.append(Send(peer, Heartbeat(held=self._keys(peer))))
                actions += [Send(peer, status)] if status is not None else []
        return actions

    # --- what the wire says -------------------------------------------------------------------------------------------

    def on_message(self, peer: bytes, header: Header, message: Message, now: float) -> list[Action]:
        """Take one decoded message from the rank behind `peer`."""
        link = self.links.get(peer)
        if link is None or link.has_ended:
            return []
        if isinstance(message, Reject):
            self._end(peer, LinkState.REJECTED)
            return [
                Note(f"{link.endpoint} refused: {message.reason}", warning=True),
                *self._finished(message.reason, True),
            ]
        if isinstance(message, Welcome):
            return self._on_welcome(peer, link, header, message, now)
        if not link.is_talking:
            return []
        if isinstance(message, Nack) and message.asks_for_hello and header.incarnation > link.incarnation:
            self._restart(peer)
            return [Note(f"{link.endpoint} has begun another life")]
        if (header.run, header.incarnation) != (link.run, link.incarnation):
            return []
        link.heard_at = now
        match message:
            case Tickets():
                return self._on_tickets(peer, link, message)
            case Heartbeat():
                # Of what was sent the rank lists nothing that is there, or was taken back: an ACK may be lost.
                if unwanted := set(self._keys(peer)) - set(message.held):
                    self._drop(peer, unwanted)
                    link.sent = {key: group for key, group in link.sent.items() if key not in unwanted}
                return self._send_waiting(peer, now)
            case Cancel():
                self._drop(peer, set(message.attempts))
                link.owes_ready = True
            case Clock():
                link.clock.hear(message.echo_ns, message.heard_ns, message.sent_ns, round(now * 1e9))
            case Ack():
                link.acknowledge(message.attempts, now)
                return self._send_waiting(peer, now)
            case Nack():
                if message.key is not None:
                    link.sent.pop(message.key, None)
                if message.asks_for_hello:
                    self._restart(peer)
                actions = self._send_waiting(peer, now)
                if self._refused.counts_round(message.reason.partition(":")[0], link.endpoint):
                    actions.append(Note(f"{link.endpoint} refused a message: {message.reason}", warning=True))
                return actions
            case Bye():
                self._end(peer, LinkState.GONE)
                # The rank waits for the answer before it hangs up: a connection that ends takes what is unread with it.
                farewell: list[Action] = [Send(peer, Bye(reason="the rank left"))]
                farewell.append(Note(f"{link.endpoint} said goodbye: {message.reason}"))
                return farewell + self._finished(message.reason, False)
        return []

    def _on_tickets(self, peer: bytes, link: Link, message: Tickets) -> list[Action]:
        """Hold the tickets, as far as the credit that was given reaches: no trainer may starve the others."""
        mine = self._held(peer)
        num_groups, nbytes = len(mine), sum(held.ticket.recipe.nbytes for held in mine)
        actions: list[Action] = []
        for ticket in message.tickets:
            num_groups, nbytes = num_groups + 1, nbytes + ticket.recipe.nbytes
            if num_groups > self.credit_groups or nbytes > self.credit_bytes:
                reason = f"credit: it is for {self.credit_groups} groups and {self.credit_bytes} bytes"
                nack = Nack(index=ticket.index, attempt=ticket.attempt, reason=reason, retryable=True)
                actions.append(Send(peer, nack))
                continue
            self._queue.append(HeldTicket(peer, link.incarnation, ticket))
        return actions + (self._drain(peer) if link.state is LinkState.DRAINING else [])

    def _on_welcome(self, peer: bytes, link: Link, header: Header, welcome: Welcome, now: float) -> list[Action]:
        if link.is_talking:
            # The answer to a second HELLO, from this life of the rank or the next: it has forgotten what it gave us.
            self._restart(peer)
        if place := self._served_elsewhere(peer, header, welcome.rank):
            self._end(peer, LinkState.GONE)
            link.run, link.incarnation, link.is_spare = header.run, header.incarnation, True
            return [Send(peer, Bye(reason=f"rank {welcome.rank} is served at {place}"))]
        is_new = (header.run, header.incarnation) != (link.run, link.incarnation)
        link.state = LinkState.WARMING
        link.run, link.incarnation, link.rank = header.run, header.incarnation, welcome.rank
        link.heartbeat_s, link.lease_s = welcome.heartbeat_ms / 1000, welcome.lease_ms / 1000
        link.heard_at = now
        actions: list[Action] = []
        if is_new:
            actions.append(Note(f"serves rank {welcome.rank} of {welcome.world_size} at {link.endpoint}"))
        if self._draining is not None:
            actions += self._drain(peer)
        link.traces, link.clock = welcome.trace, ClockDifference()
        return actions + self._hear_of_ranks(link, welcome)
