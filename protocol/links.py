"""The ranks as one producer sees them: where the talk with each stands, and what is on its way to it."""

from dataclasses import dataclass, field
from enum import Enum, auto

from penstock.protocol.tickets import Attempt, Ticket


class LinkState(Enum):
    """Where the talk with one rank stands."""

    HELLO = auto()
    """Nobody has answered yet, or the rank has fallen silent."""
    WARMING = auto()
    """Welcomed; the model is still loading."""
    READY = auto()
    DRAINING = auto()
    """No more tickets; what has begun is finished."""
    GONE = auto()
    """The rank has said BYE; in another life it may be back."""
    REJECTED = auto()
    """Refused, or not to be dialled: for good."""


_MAX_BYTES_PER_HEARTBEAT = 8 << 20
"""However fast a link has been: it may be slow from now on."""


@dataclass(frozen=True, slots=True)
class SentGroup:
    """A group on its way."""

    at: float
    """When it was sent."""
    nbytes: int
    """Of its pixels, as credits count."""
    wire_bytes: int
    """Of its frame."""


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
    sent: dict[Attempt, SentGroup] = field(default_factory=dict)
    """Groups sent and not yet acknowledged."""
    unnamed_bytes: int = 0
    """Bytes on the wire of the groups sent since the last heartbeat."""
    seconds_per_byte: float = float("inf")
    """How long it has taken of late until groups were acknowledged; infinite until one has been."""
    owes_ready: bool = False
    """The rank waits to hear that the engine is free: it is new, or has cancelled something."""

    @property
    def is_talking(self) -> bool:
        """Whether the rank has welcomed this producer and is still there."""
        return self.state in (LinkState.WARMING, LinkState.READY, LinkState.DRAINING)

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing more to say to this life of the rank."""
        return self.state in (LinkState.GONE, LinkState.REJECTED)

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes of finished groups that the rank has not acknowledged yet."""
        return sum(group.nbytes for group in self.sent.values())

    @property
    def heartbeat_is_due(self) -> bool:
        """Whether what was sent since the last heartbeat may take longer than the time between two of them."""
        seconds = self.unnamed_bytes * self.seconds_per_byte
        return seconds >= self.heartbeat_s or self.unnamed_bytes >= _MAX_BYTES_PER_HEARTBEAT

    def acknowledge(self, key: Attempt, now: float) -> None:
        """A group has arrived. The time that it took, waiting behind others included, tells how fast the link is."""
        group = self.sent.pop(key, None)
        if group is not None:
            latest = (now - group.at) / group.wire_bytes
            known = self.seconds_per_byte < float("inf")
            self.seconds_per_byte = (self.seconds_per_byte + latest) / 2 if known else latest


@dataclass(frozen=True, slots=True)
class HeldTicket:
    """A ticket in a producer's hands, with the rank it belongs to and the life of that rank that asked."""

    peer: bytes
    incarnation: int
    ticket: Ticket
