"""The messages of the protocol, one frozen dataclass each. Their field types are the schema that the codec enforces.

Producer to rank: HELLO, READY, STARTED, HEARTBEAT, RESULT, BYE.
Rank to producer: WELCOME, REJECT, TICKETS, HEARTBEAT, ACK, NACK, BYE.
"""

from dataclasses import dataclass
from typing import ClassVar

from penstock.protocol.limits import MAX_NAME_LENGTH
from penstock.protocol.tickets import Manifest, Ticket


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The fences that travel in every message: which run, which life of the rank, and which message of the sender."""

    run: str = ""
    """Run id; empty in a HELLO, whose sender does not know it yet."""
    incarnation: int = 0
    """Grows with every life of the rank; what an earlier life asked for is refused by it."""
    seq: int = 0
    """Number of the message among its sender's messages to this peer, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A producer introduces itself; the rank answers WELCOME or REJECT."""

    kind: ClassVar[str] = "HELLO"
    producer: str
    """The producer's name in logs and metrics."""
    manifest: Manifest

    def __post_init__(self) -> None:
        if not 1 <= len(self.producer) <= MAX_NAME_LENGTH:
            raise ValueError(f"producer must have 1 to {MAX_NAME_LENGTH} characters, got {len(self.producer)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The rank accepts a producer and names every rank of the run."""

    kind: ClassVar[str] = "WELCOME"
    rank: int
    world_size: int
    endpoints: tuple[str, ...]
    """Addresses of all ranks, by rank."""
    heartbeat_ms: int
    """How often the producer must send a HEARTBEAT."""
    lease_ms: int
    """How long a ticket stays with a producer whose heartbeats do not name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """The rank refuses a producer, by name and for good. Its `v`, `t` and `reason` stand in every protocol version."""

    kind: ClassVar[str] = "REJECT"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A producer's credit: how many tickets of this rank it will hold at a time, and how many bytes of groups."""

    kind: ClassVar[str] = "READY"
    credit_groups: int
    credit_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tickets:
    """Tickets for the producer to hold."""

    kind: ClassVar[str] = "TICKETS"
    tickets: tuple[Ticket, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Work on these held tickets has begun."""

    kind: ClassVar[str] = "STARTED"
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """From a producer: the tickets it holds. From a rank, in answer: the tickets that it believes the producer holds.

    The first keeps leases alive; the second lets the producer forget what was taken from it.
    """

    kind: ClassVar[str] = "HEARTBEAT"
    held: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One finished group. Its pixels follow as one raw frame: uint8, C order, of `shape`."""

    kind: ClassVar[str] = "RESULT"
    index: int
    attempt: int
    shape: tuple[int, ...]
    """(m, H, W, 3)."""
    crc32: int
    """CRC-32 (IEEE 802.3) of the raw frame."""
    seconds: float
    """Time the producer spent on the group: its share of the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The rank has the group; the producer may forget it."""

    kind: ClassVar[str] = "ACK"
    index: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack:
    """The rank dropped a message, and why. `retryable` with `index` -1: say HELLO again."""

    kind: ClassVar[str] = "NACK"
    index: int
    attempt: int
    reason: str
    retryable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """The sender leaves. A producer's tickets go to others at once; a rank's are void."""

    kind: ClassVar[str] = "BYE"
    reason: str


Message = Hello | Welcome | Reject | Ready | Tickets | Started | Heartbeat | Result | Ack | Nack | Bye

MESSAGE_TYPES: dict[str, type[Message]] = {
    cls.kind: cls for cls in (Hello, Welcome, Reject, Ready, Tickets, Started, Heartbeat, Result, Ack, Nack, Bye)
}
