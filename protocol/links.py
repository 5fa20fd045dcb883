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
    sent: dict[Attempt, tuple[float, int]] = field(default_factory=dict)
    """Groups sent and not yet acknowledged, with the time they were sent and their bytes."""
    unnamed_bytes: int = 0
    """Bytes of groups sent since the last heartbeat."""
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
        return sum(nbytes for _, nbytes in self.sent.values())


@dataclass(frozen=True, slots=True)
class HeldTicket:
    """A ticket in a producer's hands, with the rank it belongs to and the life of that rank that asked."""

    peer: bytes
    incarnation: int
    ticket: Ticket
