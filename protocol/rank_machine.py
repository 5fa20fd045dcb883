"""The rank's side of the protocol: which ticket is where, who may hold more, what has come back.

A pure state machine: events and the time in, actions out. A ticket goes PLANNED → ISSUED → RUNNING and leaves the table
when its group is delivered; a lease that runs out, a producer that leaves and a group that is not whole send it back to
PLANNED with its attempt counted up. Times are seconds on the caller's monotonic clock.
"""

import heapq
import zlib
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto

from penstock.protocol.actions import Action, Buffer, Deliver, Fail, Note, Send
from penstock.protocol.errors import MessageError, VersionError
from penstock.protocol.limits import MAX_LIST_LENGTH, MAX_TICKETS_PER_MESSAGE, PROTOCOL_VERSION
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


class TicketState(Enum):
    """Where a ticket is while the rank waits for its group."""

    PLANNED = auto()
    ISSUED = auto()
    RUNNING = auto()


class PeerState(Enum):
    """What the rank thinks of a producer."""

    WARMING = auto()
    READY = auto()
    SUSPECT = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the rank waits before it acts. Seconds; raising one tolerates slower links and slower recovery."""

    heartbeat_s: float = 1.0
    """How often a producer must name the tickets it holds."""
    lease_s: float = 10.0
    """How long a ticket stays with a producer that does not name it."""
    max_attempts: int = 5
    """Failures of one ticket before the run stops and says why."""
    max_bad_results: int = 3
    """Broken groups in a row before a producer is refused."""


@dataclass(slots=True)
class Peer:
    """A producer as one rank sees it."""

    name: str
    manifest: Manifest
    last_heard: float
    state: PeerState = PeerState.WARMING
    credit_groups: int = 0
    credit_bytes: int = 0
    held: set[int] = field(default_factory=set)
    held_bytes: int = 0
    groups: int = 0
    bad_results: int = 0


@dataclass(slots=True)
class _Entry:
    ticket: Ticket
    state: TicketState = TicketState.PLANNED
    holder: bytes | None = None
    failed_by: bytes | None = None
    """Who held the last attempt that went wrong; another is tried first."""
    named_at: float = 0.0
    failures: int = 0
    """Attempts that went wrong. Fewer than all attempts: a producer that leaves is nobody's fault."""


class RankMachine:
    """State machine of one rank.

    Args:
        run_id: the run, named in every message.
        incarnation: this life of the rank; larger than that of every earlier life.
        rank: this rank.
        endpoints: addresses of all ranks, by rank.
        model_digest: digest that a producer's manifest must carry, or None to pin the first producer's.
        patience: leases, heartbeats and attempts.
    """

    def __init__(
        self,
        *,
        run_id: str,
        incarnation: int,
        rank: int,
        endpoints: tuple[str, ...],
        model_digest: str | None,
        patience: Patience,
    ) -> None:
        self.run_id = run_id
        self.incarnation = incarnation
        self.rank = rank
        self.endpoints = endpoints
        self.model_digest = model_digest
        self.patience = patience
        self.peers: dict[bytes, Peer] = {}
        self.rejects: Counter[tuple[str, str]] = Counter()
        """Messages dropped, by (reason, producer)."""
        self.expired = 0
        """Leases that ran out."""
        self._table: dict[int, _Entry] = {}
        self._planned: list[int] = []
        self._closing = False

    # --- what the stream asks -----------------------------------------------------------------------------------------

    @property
    def num_waiting(self) -> int:
        """Tickets whose group has not come: planned, issued or running."""
        return len(self._table)

    @property
    def num_outstanding(self) -> int:
        """Live attempts: tickets that some producer holds."""
        return sum(len(peer.held) for peer in self.peers.values())

    @property
    def num_listening(self) -> int:
        """Producers that have not fallen silent."""
        return sum(peer.state is not PeerState.SUSPECT for peer in self.peers.values())

    def plan(self, ticket: Ticket) -> None:
        """Add a ticket to what is wanted. It is handed out by the next `issue`."""
        if ticket.index in self._table:
            raise ValueError(f"ticket {ticket.index} is planned already")
        self._table[ticket.index] = _Entry(ticket)
        heapq.heappush(self._planned, ticket.index)

    def issue(self, now: float) -> list[Action]:
        """Hand planned tickets, lowest index first, to producers with room, by whole batches where that is possible."""
        given: dict[bytes, list[Ticket]] = {}
        while self._planned and not self._closing:
            entry = self._table[self._planned[0]]
            identity = self._next_holder(entry)
            if identity is None:
                break
            heapq.heappop(self._planned)
            peer = self.peers[identity]
            peer.held.add(entry.ticket.index)
            peer.held_bytes += entry.ticket.recipe.nbytes
            entry.state, entry.holder, entry.named_at = TicketState.ISSUED, identity, now
            given.setdefault(identity, []).append(entry.ticket)
        return [
            Send(identity, Tickets(tickets=tuple(tickets[start : start + MAX_TICKETS_PER_MESSAGE])))
            for identity, tickets in given.items()
            for start in range(0, len(tickets), MAX_TICKETS_PER_MESSAGE)
        ]

    def tick(self, now: float) -> list[Action]:
        """Let time pass: leases that nobody named run out, silent producers are suspected, then forgotten."""
        actions: list[Action] = []
        for identity, peer in list(self.peers.items()):
            silent_s = now - peer.last_heard
            if silent_s > 3 * self.patience.lease_s:
                actions += self._forget(identity, f"silent for {silent_s:.0f} s")
            elif peer.state is PeerState.READY and silent_s > 3 * self.patience.heartbeat_s:
                peer.state = PeerState.SUSPECT
                actions.append(Note(f"{peer.name} has been silent for {silent_s:.0f} s", warning=True))
        late = [e for e in self._table.values() if e.holder and now - e.named_at > self.patience.lease_s]
        for entry in late:
            self.expired += 1
            actions += self._take_back(entry, "its lease ran out")
        return actions + self.issue(now)

    def close(self, reason: str) -> list[Action]:
        """Say BYE to every producer. No ticket is handed out any more."""
        self._closing = True
        return [Send(identity, Bye(reason=reason)) for identity in self.peers]

    # --- what the wire says -------------------------------------------------------------------------------------------

    def on_garbage(self, identity: bytes, error: MessageError) -> list[Action]:
        """Bytes that are no message: count them, and say why to whoever may understand."""
        self._count(identity, error.reason)
        if isinstance(error, VersionError):
            reason = f"this run speaks protocol version {PROTOCOL_VERSION}, you speak {error.theirs}; install the same"
            return [Send(identity, Reject(reason=reason)), Note(f"refused a producer: {error}", warning=True)]
        note = Note(f"dropped a message of {self._name(identity)}: {error}", warning=True)
        return [Send(identity, Nack(index=-1, attempt=0, reason=str(error)[:500], retryable=False)), note]

    def on_message(
        self, identity: bytes, header: Header, message: Message, payload: Buffer | None, now: float
    ) -> list[Action]:
        """Take one decoded message from the producer behind `identity`."""
        if isinstance(message, Hello):
            return self._on_hello(identity, message, now)
        if (header.run, header.incarnation) != (self.run_id, self.incarnation):
            return self._nack(identity, -1, 0, "another life of this run asked for it; say HELLO", retryable=True)
        peer = self.peers.get(identity)
        if peer is None:
            return self._nack(identity, -1, 0, "unknown producer; say HELLO", retryable=True)
        peer.last_heard = now
        if peer.state is PeerState.SUSPECT:
            peer.state = PeerState.READY
        match message:
            case Ready():
                # A heartbeat must be able to name all that a producer holds.
                peer.credit_groups = min(message.credit_groups, MAX_LIST_LENGTH)
                peer.credit_bytes = message.credit_bytes
                peer.state = PeerState.READY
                return self.issue(now)
            case Started():
                for entry in self._held(identity, message.indices):
                    entry.state, entry.named_at = TicketState.RUNNING, now
                return []
            case Heartbeat():
                for entry in self._held(identity, message.held):
                    entry.named_at = now
                return [Send(identity, Heartbeat(held=tuple(sorted(peer.held))))]
            case Result():
                return self._on_result(identity, peer, message, payload) + self.issue(now)
            case Nack():
                return self._on_nack(identity, message) + self.issue(now)
            case Bye():
                return self._forget(identity, f"left: {message.reason}") + self.issue(now)
            case _:
                return self._nack(identity, -1, 0, f"a producer does not send {message.kind}", retryable=False)

    def _on_hello(self, identity: bytes, message: Hello, now: float) -> list[Action]:
        manifest = message.manifest
        if self.model_digest is None:
            self.model_digest = manifest.model_digest
        if manifest.model_digest != self.model_digest:
            self.rejects["model_digest", message.producer] += 1
            reason = (
                f"{message.producer} serves {manifest.model} with digest {manifest.model_digest[:12]}, "
                f"this run wants digest {self.model_digest[:12]}"
            )
            refused: list[Action] = [Send(identity, Reject(reason=reason))]
            refused.append(Note(f"refused a producer: {reason}", warning=True))
            return refused + (self._forget(identity, "changed its model") if identity in self.peers else [])
        actions = self._forget(identity, "said HELLO again") if identity in self.peers else []
        self.peers[identity] = Peer(message.producer, manifest, last_heard=now)
        welcome = Welcome(
            rank=self.rank,
            world_size=len(self.endpoints),
            endpoints=self.endpoints,
            heartbeat_ms=int(self.patience.heartbeat_s * 1000),
            lease_ms=int(self.patience.lease_s * 1000),
        )
        return [*actions, Send(identity, welcome), Note(f"{message.producer} joined")]

    def _on_result(self, identity: bytes, peer: Peer, result: Result, payload: Buffer | None) -> list[Action]:
        entry = self._table.get(result.index)
        if entry is None or entry.holder != identity or entry.ticket.attempt != result.attempt:
            return self._nack(
                identity, result.index, result.attempt, "stale: not held by you any more", retryable=False
            )
        fault = _fault(entry.ticket, result, payload)
        if payload is None or fault is not None:
            peer.bad_results += 1
            actions = self._nack(identity, result.index, result.attempt, fault or "no pixels", retryable=True)
            actions += self._take_back(entry, f"{peer.name} sent a broken group: {fault}")
            if peer.bad_results >= self.patience.max_bad_results:
                reason = f"{peer.bad_results} broken groups in a row, the last: {fault}"
                actions += [Send(identity, Reject(reason=reason)), *self._forget(identity, f"refused: {reason}")]
            return actions
        self._release(entry)
        del self._table[result.index]
        peer.groups += 1
        peer.bad_results = 0
        ack = Send(identity, Ack(index=result.index, attempt=result.attempt))
        return [Deliver(entry.ticket, payload, peer.name, peer.manifest), ack]

    def _on_nack(self, identity: bytes, nack: Nack) -> list[Action]:
        actions: list[Action] = []
        for entry in self._held(identity, (nack.index,)):
            if entry.ticket.attempt == nack.attempt:
                actions += self._take_back(entry, f"{self._name(identity)} could not make it: {nack.reason}")
        return actions

    # --- bookkeeping --------------------------------------------------------------------------------------------------

    def _next_holder(self, entry: _Entry) -> bytes | None:
        """The producer to hold a ticket: one whose last batch is not full yet, else the one with the most room.

        A batch has a fixed shape, so tickets spread thinly over the fleet would be made among padding.
        """
        recipe = entry.ticket.recipe
        best, best_rank = None, (False, False, 0)
        for identity, peer in self.peers.items():
            room = peer.credit_groups - len(peer.held)
            fits = peer.held_bytes + recipe.nbytes <= peer.credit_bytes
            incomplete = len(peer.held) % max(1, peer.manifest.batch_images // recipe.num_images) != 0
            rank = (identity != entry.failed_by, incomplete, room)
            if peer.state is PeerState.READY and fits and room > 0 and rank > best_rank:
                best, best_rank = identity, rank
        return best

    def _held(self, identity: bytes, indices: tuple[int, ...]) -> list[_Entry]:
        """The entries among `indices` that this producer really holds."""
        entries = (self._table.get(index) for index in indices)
        return [entry for entry in entries if entry is not None and entry.holder == identity]

    def _release(self, entry: _Entry) -> None:
        """Take the ticket out of its holder's account."""
        if entry.holder is not None and entry.holder in self.peers:
            peer = self.peers[entry.holder]
            peer.held.discard(entry.ticket.index)
            peer.held_bytes -= entry.ticket.recipe.nbytes
        entry.holder = None

    def _take_back(self, entry: _Entry, why: str, *, blame: bool = True) -> list[Action]:
        """Back to PLANNED for the next attempt; a run stops when one ticket fails too often."""
        if blame:
            entry.failed_by = entry.holder
        self._release(entry)
        entry.ticket = entry.ticket.again()
        entry.state = TicketState.PLANNED
        heapq.heappush(self._planned, entry.ticket.index)
        entry.failures += blame
        if blame and entry.failures >= self.patience.max_attempts:
            text = f"ticket {entry.ticket.index} ({entry.ticket.recipe.prompt!r:.60}) failed {entry.failures} times"
            return [Fail(f"{text}; the last time {why}")]
        return [Note(f"ticket {entry.ticket.index} goes back to the plan: {why}", warning=blame)]

    def _forget(self, identity: bytes, why: str) -> list[Action]:
        """A producer is gone; its tickets go to others. That is nobody's fault and counts no failed attempt."""
        peer = self.peers[identity]
        actions: list[Action] = [Note(f"{peer.name} {why}; {len(peer.held)} tickets go to others")]
        for index in sorted(peer.held):
            actions += self._take_back(self._table[index], f"{peer.name} {why}", blame=False)[1:]
        del self.peers[identity]
        return actions

    def _name(self, identity: bytes) -> str:
        peer = self.peers.get(identity)
        return peer.name if peer else f"unknown peer {identity.hex()}"

    def _count(self, identity: bytes, reason: str) -> None:
        peer = self.peers.get(identity)
        self.rejects[reason, peer.name if peer else "unknown"] += 1

    def _nack(self, identity: bytes, index: int, attempt: int, reason: str, *, retryable: bool) -> list[Action]:
        self._count(identity, reason.split(":")[0].split(";")[0])
        return [Send(identity, Nack(index=index, attempt=attempt, reason=reason, retryable=retryable))]


def _fault(ticket: Ticket, result: Result, payload: Buffer | None) -> str | None:
    """Why a result's pixels cannot be what its ticket asked for, or None."""
    if payload is None:
        return "frame_count: the pixels' frame is missing"
    if result.shape != ticket.recipe.shape:
        return f"shape: expected {ticket.recipe.shape}, got {result.shape}"
    nbytes = memoryview(payload).nbytes
    if nbytes != ticket.recipe.nbytes:
        return f"size: shape {result.shape} needs {ticket.recipe.nbytes} bytes, got {nbytes}"
    crc32 = zlib.crc32(payload)
    if crc32 != result.crc32:
        return f"checksum: expected {result.crc32:#010x}, got {crc32:#010x}"
    return None
