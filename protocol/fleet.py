"""The producers as one rank sees them: who is there, who has room, who would be done first."""

import heapq
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum

from penstock.protocol.durations import Durations
from penstock.protocol.messages import Ack
from penstock.protocol.tickets import Attempt, Manifest, Ticket
from penstock.protocol.watching import Status

_UNKNOWN_BATCH_S = 1.0
"""Taken for a batch's time before any is known; only its ratio to others of the same kind counts."""
_DOUBTFUL_AFTER = 8
"""More than one batch of tickets that fails because of one of them."""


class PeerState(Enum):
    """What the rank thinks of a producer."""

    WARMING = "warming"
    """Welcomed; its model is still loading."""
    READY = "ready"
    SUSPECT = "suspect"
    """Silent for some heartbeats."""
    STALLED = "stalled"
    """It talks, but is far slower than usual or has no room; it gets no more until it says READY."""
    DRAINING = "draining"
    """It finishes what it has begun and takes no more."""


class FleetState(Enum):
    """What a rank can hope for, the worst first."""

    GONE = "all producers are gone"
    WAITING = "waiting for the first producer"
    SILENT = "all producers are silent, stalled or draining"
    WARMING = "producers are loading their model"
    SERVING = "producers are serving"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLook:
    """A producer at one moment, as one rank sees it: for people and for metrics."""

    name: str
    state: PeerState
    manifest: Manifest
    credit_groups: int
    held: int
    """Tickets in its hands."""
    groups: int
    """Groups of it that have arrived here, whole."""
    images: int
    wire_bytes: int
    """Bytes that travelled for them."""
    silent_s: float
    """Since it was last heard."""
    service_s: tuple[float, ...]
    """From STARTED to the group, of its last groups, the oldest first."""
    status: Status | None
    """What it has last told of its work; None before the first."""


@dataclass(slots=True)
class Peer:
    """A producer as one rank sees it."""

    name: str
    manifest: Manifest
    last_heard: float
    last_seq: int
    """Number of the last message that was heard."""
    state: PeerState = PeerState.WARMING
    awake: PeerState = PeerState.WARMING
    """What a suspect was before it fell silent, and is again when it speaks."""
    credit_groups: int = 0
    credit_bytes: int = 0
    held: dict[int, Attempt] = field(default_factory=dict)
    """Live attempts in its hands, by index."""
    held_bytes: int = 0
    arrived: list[Attempt] = field(default_factory=list)
    """Its groups that are here and not acknowledged yet."""
    arrived_bytes: int = 0
    worked_at: float = float("-inf")
    """When it last began or finished a ticket that it held."""
    service: Durations = field(default_factory=Durations)
    """From STARTED to the group, on the rank's clock."""
    bad_results: int = 0
    """Garbled groups in a row."""
    refusals: int = 0
    """Tickets in a row that it could not make, or made black."""
    groups: int = 0
    """Groups of it that have arrived, whole."""
    images: int = 0
    wire_bytes: int = 0
    status: Status | None = None
    """What it has last told of its work."""
    lot: float = 1.0
    """In [0, 1), another on each rank: it decides among equals, or all ranks would give to the same producers."""

    @property
    def is_doubtful(self) -> bool:
        """Whether it has failed so often in a row that it may be the producer and not the tickets."""
        return self.refusals > _DOUBTFUL_AFTER

    @property
    def model_digest(self) -> str:
        """Whose images it has."""
        return self.manifest.model_digest

    def may_take(self, ticket: Ticket) -> bool:
        """Whether it may be given this ticket, once it has room. Never one for another model's images."""
        return (
            self.state is PeerState.READY
            and self.model_digest == ticket.recipe.model_digest
            and self.credit_groups > 0
            and ticket.recipe.nbytes <= self.credit_bytes
        )

    def has_room(self, ticket: Ticket) -> bool:
        """Whether it may be given this ticket now."""
        return (
            self.may_take(ticket)
            and len(self.held) < self.credit_groups
            and self.held_bytes + ticket.recipe.nbytes <= self.credit_bytes
        )

    @property
    def has_worthwhile_room(self) -> bool:
        """Whether it has room for a quarter of its credit, so that tickets go in company and not a message each."""
        return 4 * (self.credit_groups - len(self.held)) >= self.credit_groups

    @property
    def awaits_ack(self) -> bool:
        """Whether it may be waiting for one: a quarter of its credit has come, or it holds nothing else."""
        groups, nbytes = 4 * len(self.arrived), 4 * self.arrived_bytes
        return not self.held or groups >= self.credit_groups or nbytes >= self.credit_bytes

    def arrive(self, key: Attempt, ticket: Ticket, wire_bytes: int) -> None:
        """One of its groups is here, whole; so many bytes travelled for it."""
        self.arrived.append(key)
        self.arrived_bytes += ticket.recipe.nbytes
        self.groups += 1
        self.images += ticket.recipe.num_images
        self.wire_bytes += wire_bytes

    def look(self, now: float) -> PeerLook:
        """How it is now."""
        return PeerLook(
            name=self.name,
            state=self.state,
            manifest=self.manifest,
            credit_groups=self.credit_groups,
            held=len(self.held),
            groups=self.groups,
            images=self.images,
            wire_bytes=self.wire_bytes,
            silent_s=now - self.last_heard,
            service_s=self.service.last,
            status=self.status,
        )

    def acknowledge(self) -> Ack:
        """What says that all its groups so far are here."""
        attempts, self.arrived, self.arrived_bytes = tuple(self.arrived), [], 0
        return Ack(attempts=attempts)

    def hold(self, ticket: Ticket) -> None:
        """It is given a ticket."""
        self.held[ticket.index] = ticket.key
        self.held_bytes += ticket.recipe.nbytes

    def drop(self, ticket: Ticket) -> None:
        """It holds the ticket no more."""
        del self.held[ticket.index]
        self.held_bytes -= ticket.recipe.nbytes

    def share_of_batch(self, ticket: Ticket, sharers: int) -> int:
        """Groups like this one that a rank should have in one of its batches, where so many ranks share them."""
        return max(1, self.manifest.batch_images // ticket.recipe.num_first // sharers)

    def done_in_s(self, ticket: Ticket, fleet: Durations, sharers: int = 1) -> float:
        """Seconds until it would have made one more ticket, by the time that its batches have taken.

        Where so many ranks share its batches that each adds single groups, what it has of this rank tells nothing of
        its queue: then the lot says how far on the ticket's batch is. So of many ranks each prefers others, and the
        faster a producer is, the more prefer it.
        """
        known = self.service if len(self.service) else fleet
        batch_s = known.quantile(0.5) if len(known) else _UNKNOWN_BATCH_S
        share = self.share_of_batch(ticket, sharers)
        if share == 1 < sharers:
            return (len(self.held) + self.lot) * batch_s
        return (len(self.held) // share + 1) * batch_s


def choose(
    peers: Iterable[tuple[bytes, Peer]],
    ticket: Ticket,
    avoid: set[bytes],
    fleet: Durations,
    short: Collection[bytes] = (),
    sharers: int = 1,
) -> bytes | None:
    """The producer that should hold a ticket: of those with room that are not `short` of it, who would be done first.

    `fleet` knows how long a ticket of its model usually takes; so many ranks share the producers.

    Where all those with room are in `avoid`, nobody should as long as any other may have room later: a broken producer
    always has room. For the same reason one that has failed again and again comes last. Among equals, one whose batch
    is not full yet: a batch has a fixed shape, so tickets spread thinly over the fleet would be made among padding.
    Where ranks share the batches, each adds its share to one and leaves the rest to the others.
    """
    peers = list(peers)
    if any(identity not in avoid and peer.may_take(ticket) for identity, peer in peers):
        peers = [(identity, peer) for identity, peer in peers if identity not in avoid]
    return Takers(((identity, peer) for identity, peer in peers if identity not in short), ticket, fleet, sharers).first


class Takers:
    """The producers with room for tickets of one kind, the one that should hold the next first.

    While such tickets are handed out each producer is looked at once, and not again for every ticket: in a fleet of a
    thousand that is the most of a rank's work.

    Args:
        peers: who may get them; nobody else may give them tickets meanwhile.
        ticket: one of the kind.
        fleet, sharers: as in `choose`.
    """

    def __init__(self, peers: Iterable[tuple[bytes, Peer]], ticket: Ticket, fleet: Durations, sharers: int) -> None:
        self._ticket, self._fleet, self._sharers = ticket, fleet, sharers
        self._heap = [
            (self._rank(peer), place, identity, peer)
            for place, (identity, peer) in enumerate(peers)
            if peer.has_room(ticket)
        ]
        heapq.heapify(self._heap)

    @property
    def first(self) -> bytes | None:
        """Who should hold the next ticket; None where nobody has room."""
        return self._heap[0][2] if self._heap else None

    def given(self) -> None:
        """The first has been given a ticket."""
        _, place, identity, peer = self._heap[0]
        if peer.has_room(self._ticket):
            heapq.heapreplace(self._heap, (self._rank(peer), place, identity, peer))
        else:
            heapq.heappop(self._heap)

    def _rank(self, peer: Peer) -> tuple[bool, float, bool, int, float]:
        """The lower, the sooner it gets a ticket."""
        complete = len(peer.held) % peer.share_of_batch(self._ticket, self._sharers) == 0
        done_in_s = peer.done_in_s(self._ticket, self._fleet, self._sharers)
        return peer.is_doubtful, done_in_s, complete, len(peer.held) - peer.credit_groups, peer.lot


def worst(states: Iterable[FleetState]) -> FleetState:
    """What a rank that needs all of several fleets can hope for."""
    return min(states, key=list(FleetState).index)


def state_of(peers: Iterable[Peer], *, any_came: bool) -> FleetState:
    """What a rank with these producers can hope for."""
    states = {peer.state for peer in peers}
    if PeerState.READY in states:
        return FleetState.SERVING
    if PeerState.WARMING in states:
        return FleetState.WARMING
    if states:
        return FleetState.SILENT
    return FleetState.GONE if any_came else FleetState.WAITING
