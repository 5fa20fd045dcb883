"""The producer's side of the protocol: which ranks it serves, which tickets it holds, which groups are on their way.

A pure state machine: events and the time in, actions out. A link to a rank goes HELLO → WARMING → READY and back to
HELLO when the rank falls silent; DRAINING hands back what was not begun; BYE or REJECT ends it. Held tickets are served
earliest `need_by_step` first across all ranks, so no rank starves another. Ranks come and go: each WELCOME names those
that there are, addresses that it does not name are given up when they fall silent, and those that the producer was
started with are tried again whenever nobody talks. Times are seconds on the caller's monotonic
clock. States and messages: docs/protocol.md.
"""

from collections import deque
from collections.abc import Callable, Hashable
from math import ceil

from penstock.protocol.actions import Action, Connect, Disconnect, Finished, Note, Send
from penstock.protocol.batching import choose_batch, same_recipe
from penstock.protocol.chance import draw
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
from penstock.protocol.tickets import Attempt, Manifest, Ticket
from penstock.protocol.watching import Clock, Status

_RANKS = 16
"""How many a producer serves where nobody says it. Were it all of very many, each rank would have a ticket or none in
its queue, by chance, and batches would be too small here and wait long there."""
_REDIAL_S = 3.0
"""How long a HELLO may wait for its connection before the rank is dialled anew: its name may have another address."""


class ProducerMachine:
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
        self.name = name
        self.manifest = manifest
        self.credit_groups = credit_groups
        self.credit_bytes = credit_bytes
        self.max_ranks = max_ranks
        self.links: dict[bytes, Link] = {}
        self._first = self._num_drawn = max_ranks or max(_RANKS, credit_groups)
        self._drawn: frozenset[int] = frozenset()
        """The ranks that it serves; empty where it serves all."""
        self._ranks: tuple[tuple[str, str], ...] = ()
        """Address and key of every rank, as the latest WELCOME names them."""
        self._idle_since: float | None = None
        """Since when it has had nothing to do; None while it has, or has no rank."""
        self._loaded = False
        self._draining: str | None = None
        self._given: list[str] = []
        """Addresses that this producer was started with."""
        self._named: frozenset[str] = frozenset()
        """Addresses of all ranks."""
        self._refused = Tally()
        self._queue: list[HeldTicket] = []
        self._running: list[HeldTicket] = []

    @property
    def num_queued_images(self) -> int:
        """Images of the tickets whose work has not begun."""
        return sum(held.ticket.recipe.num_first for held in self._queue)

    @property
    def has_queued_probe(self) -> bool:
        """Whether a ticket is waiting that costs its engine nothing."""
        return any(held.ticket.probe for held in self._queue)

    @property
    def connected(self) -> bool:
        """Whether any rank has welcomed this producer and is still there."""
        return any(link.is_talking for link in self.links.values())

    @property
    def traced(self) -> tuple[bytes, ClockDifference] | None:
        """The rank that wants to hear of events, and how far its clock is from this one's; None where none does."""
        return next(((peer, link.clock) for peer, link in self.links.items() if link.is_talking and link.traces), None)

    @property
    def drained(self) -> bool:
        """Whether nothing is left of what a draining producer had begun: made, sent and acknowledged."""
        return not self._running and not any(link.sent or link.waiting for link in self.links.values())

    def look(self) -> ProducerLook:
        """How it is now."""
        tickets = (len(self._queue), len(self._running))
        return look_at(list(self.links.values()), *tickets, self.credit_groups, self._refused.by_kind)

    def header(self, peer: bytes) -> Header:
        """The fences of a message to `peer`, without its sequence number; those of a HELLO where nobody is there."""
        link = self.links.get(peer)
        return Header() if link is None else Header(run=link.run, incarnation=link.incarnation)

    def connect(self, endpoint: str) -> list[Action]:
        """Start to serve the rank at an address that this producer was given, unless it does already."""
        if endpoint not in self._given:
            self._given.append(endpoint)
        return self._dial(endpoint, "")

    def _dial(self, endpoint: str, key: str) -> list[Action]:
        """Serve the rank at `endpoint`, which is not served; `key` as in `Connect`."""
        link = self.links.get(endpoint.encode())
        if link is None:
            self.links[endpoint.encode()] = Link(endpoint, key, endpoint in self._given)
            return [Connect(endpoint, key)]
        if link.state is LinkState.GONE:
            link.state = LinkState.HELLO  # it has left, and another rank says that it is back
        if key in ("", link.key) or link.state is LinkState.REJECTED:
            return []
        self._restart(endpoint.encode())
        link.key = key
        return [Connect(endpoint, key)]

    def cannot_connect(self, endpoint: str) -> None:
        """The rank at `endpoint` cannot be dialled at all; the others are served."""
        self._end(endpoint.encode(), LinkState.REJECTED)

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

    def leave(self, reason: str) -> list[Action]:
        """Say BYE to every rank; what is held goes back."""
        ready = [peer for peer, link in self.links.items() if link.is_talking]
        for peer in self.links:
            self._end(peer, LinkState.GONE)
        return [Send(peer, Bye(reason=reason)) for peer in ready]

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float, status: Status | None = None) -> list[Action]:
        """Let time pass: say HELLO where nobody has answered, name the held tickets, notice silent ranks.

        Args:
            now: the time.
            status: what to tell of the engine's work beside each heartbeat; None tells nothing.
        """
        actions = self._tidy() + self._widen(now)
        for peer, link in self.links.items():
            if link.is_talking and now - link.heard_at > link.lease_s:
                actions.append(Note(f"{link.endpoint} has been silent for {now - link.heard_at:.0f} s", warning=True))
                self._restart(peer)
            if link.state is LinkState.HELLO:
                actions += self._redial(link, now)
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

    def _tidy(self) -> list[Action]:
        """Hang up where nobody is any more; when all have fallen silent, go back to the addresses that are known."""
        idle = [peer for peer, link in self.links.items() if not link.is_talking and self._is_stale(link)]
        actions: list[Action] = []
        for peer in idle:
            actions.append(Disconnect(self.links.pop(peer).endpoint))
        if self._draining is None and self._is_alone():
            left = [link.endpoint for link in self.links.values() if link.state is LinkState.GONE]
            lost = [endpoint for endpoint in self._given if endpoint.encode() not in self.links]
            actions += [action for endpoint in (*left, *lost) for action in self._dial(endpoint, "")]
        return actions

    def _is_alone(self) -> bool:
        """Whether nobody talks, and the run was not over: a rank has fallen silent that had not said goodbye.

        One that crashed took the others along, and those have said it: all will be back.
        """
        states = {link.state for link in self.links.values()}
        return not states or (LinkState.HELLO in states and not self.connected)

    def _is_stale(self, link: Link) -> bool:
        """Whether no rank is to be expected at a link's address."""
        return link.is_spare or not (link.is_given or link.endpoint in self._named)

    def _redial(self, link: Link, now: float) -> list[Action]:
        """Dial anew where no HELLO gets out for long."""
        is_reached = link.said_at > float("-inf")
        if is_reached or link.dialled_at == float("-inf"):
            link.dialled_at = now
        if now - link.dialled_at < _REDIAL_S:
            return []
        link.dialled_at = now
        return [Connect(link.endpoint, link.key)]

    def not_sent(self, peer: bytes) -> None:
        """A HELLO did not go out, because the connection is not there yet: say it at the next tick."""
        if peer in self.links:
            self.links[peer].said_at = float("-inf")

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
        self._draw(welcome.world_size)
        link.owes_ready = self._serves(welcome.rank)
        self._named = frozenset(welcome.endpoints)
        keys = welcome.keys or ("",) * len(welcome.endpoints)
        self._ranks = tuple(zip(welcome.endpoints, keys, strict=True))
        link.key = keys[welcome.rank]
        return actions + self._dial_drawn(header.run, header.incarnation) + self._leave_undrawn()

    def _dial_drawn(self, run: str, incarnation: int) -> list[Action]:
        """Dial the ranks of this life that are to be served and are not."""
        # By rank, not by address: one host has several names.
        served = {link.rank for link in self.links.values() if (link.run, link.incarnation) == (run, incarnation)}
        actions: list[Action] = []
        for rank in sorted(self._drawn) or range(len(self._ranks)):
            if rank not in served:
                actions += self._dial(*self._ranks[rank])
        return actions

    def _serves(self, rank: int) -> bool:
        """Whether a rank is among those that this producer's name has drawn, or is to serve all."""
        return not self._drawn or rank in self._drawn

    def _draw(self, world_size: int) -> None:
        """Draw the ranks to serve: by name, so that each gets about as many producers, and the same in every life."""
        if not 0 < self._num_drawn < world_size:
            self._drawn = frozenset()
        elif len(self._drawn) != self._num_drawn or len(self._ranks) != world_size:
            by_lot = sorted(range(world_size), key=lambda rank: draw(self.name, rank))
            self._drawn = frozenset(by_lot[: self._num_drawn])

    def _widen(self, now: float) -> list[Action]:
        """Serve one rank more for each lease that this producer has had nothing to do, at a stretch.

        In a small fleet all may have drawn others than one rank. It stands still, soon all ranks wait for it, and
        nobody has anything to do. Where trainers pause every now and then, only the longest pause counts.
        """
        link = next((link for link in self.links.values() if link.state is LinkState.READY), None)
        if not self._drawn or link is None or self._queue or self._running:
            self._idle_since = None
            return []
        if self._idle_since is None:
            self._idle_since = now
        num_drawn = self._first + int((now - self._idle_since) // link.lease_s)
        if num_drawn <= self._num_drawn:
            return []
        self._num_drawn = num_drawn
        self._draw(len(self._ranks))
        return self._dial_drawn(link.run, link.incarnation)

    def _leave_undrawn(self) -> list[Action]:
        """Leave the rank that has only told of the others, once one of those that were drawn talks."""
        talking = [(peer, link) for peer, link in self.links.items() if link.is_talking]
        if not any(self._serves(link.rank) for _, link in talking):
            return []
        actions: list[Action] = []
        for peer, link in talking:
            if not self._serves(link.rank):
                self._end(peer, LinkState.GONE)
                link.is_spare = True
                actions.append(Send(peer, Bye(reason="it serves other ranks")))
        return actions

    def _served_elsewhere(self, peer: bytes, header: Header, rank: int) -> str:
        """The address by which the rank behind `peer` is served already, or a later life of it; empty where none is.

        An earlier life of it, or a link of this life that has fallen silent, is given up.
        """
        for other, link in self.links.items():
            if other == peer or (link.run, link.rank) != (header.run, rank) or link.has_ended:
                continue
            if link.is_talking and link.incarnation >= header.incarnation:
                return link.endpoint
            self._end(other, LinkState.GONE)
            link.is_spare = True
        return ""

    # --- bookkeeping --------------------------------------------------------------------------------------------------

    def _held(self, peer: bytes) -> list[HeldTicket]:
        """This rank's tickets, begun or not, that are not finished."""
        return [held for held in (*self._queue, *self._running) if held.peer == peer]

    def _keys(self, peer: bytes) -> tuple[Attempt, ...]:
        """The attempts of this rank's tickets, those of groups that it has not acknowledged among them."""
        link = self.links[peer]
        unfinished = {held.ticket.key for held in self._held(peer)}
        return tuple(sorted(unfinished | link.sent.keys() | {group.key for group in link.waiting}))

    def _drop(self, peer: bytes, unwanted: set[Attempt]) -> None:
        """Forget these tickets of a rank; what is being made of them will not be sent."""
        self._queue = [held for held in self._queue if held.peer != peer or held.ticket.key not in unwanted]
        self._running = [held for held in self._running if held.peer != peer or held.ticket.key not in unwanted]
        link = self.links[peer]
        link.waiting = deque(group for group in link.waiting if group.key not in unwanted)

    def _restart(self, peer: bytes) -> None:
        """Back to HELLO: nothing that the rank asked for before counts any more."""
        self._void(peer)
        self.links[peer].state = LinkState.HELLO

    def _end(self, peer: bytes, state: LinkState) -> None:
        self._void(peer)
        self.links[peer].state = state

    def _void(self, peer: bytes) -> None:
        self._queue = [held for held in self._queue if held.peer != peer]
        self._running = [held for held in self._running if held.peer != peer]
        self.links[peer].forget_groups()
        self.links[peer].owes_ready = False

    def _finished(self, reason: str, rejected: bool) -> list[Action]:
        # A rank that does not answer either has crashed or has never come; the run is over without it.
        if any(link.is_talking for link in self.links.values()):
            return []
        return [Finished(reason, rejected)]
