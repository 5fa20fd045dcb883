"""The messages of the protocol, one frozen dataclass each. Their field types are the schema that the codec enforces.

Producer to rank: HELLO, READY, STARTED, HEARTBEAT, STATUS, RESULT, NACK, TRACE, DRAIN, BYE.
Rank to producer: WELCOME, REJECT, TICKETS, CANCEL, HEARTBEAT, CLOCK, ACK, NACK, BYE.
"""

from dataclasses import dataclass
from typing import ClassVar, get_args

from penstock.protocol.image_codec import JPEG, RAW
from penstock.protocol.limits import (
    KEY_LENGTH,
    MAX_CANDIDATES,
    MAX_NAME_LENGTH,
    MAX_PER_IMAGE_VALUES,
    MAX_RANKS,
    MAX_REASON_LENGTH,
    MAX_TICKETS_PER_MESSAGE,
)
from penstock.protocol.rules import require, require_name
from penstock.protocol.tickets import Attempt, Manifest, Ticket, check_candidates
from penstock.protocol.watching import Clock, Status, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The fences that travel in every message: which run, which life of the rank, which message of the sender."""

    run: str = ""
    """Run id; empty in a HELLO, whose sender does not know it yet."""
    incarnation: int = 0
    """Grows with every life of the rank; what an earlier life asked for is refused by it."""
    seq: int = 0
    """Number of the message among its sender's messages; grows with every one. A rank drops what does not grow."""

    def __post_init__(self) -> None:
        require(self.incarnation >= 0, "inc must be >= 0", self.incarnation)
        require(self.seq >= 0, "seq must be >= 0", self.seq)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A producer introduces itself; the rank answers WELCOME or REJECT."""

    kind: ClassVar[str] = "HELLO"
    producer: str
    """The producer's name in logs and metrics."""
    manifest: Manifest

    def __post_init__(self) -> None:
        require_name("producer", self.producer, MAX_NAME_LENGTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The rank accepts a producer and names every rank of the run."""

    kind: ClassVar[str] = "WELCOME"
    rank: int
    world_size: int
    endpoints: tuple[str, ...]
    """Addresses of all ranks, by rank."""
    keys: tuple[str, ...]
    """Public CURVE keys of all ranks, by rank; empty where the links have no keys."""
    heartbeat_ms: int
    """How often the producer must send a HEARTBEAT."""
    lease_ms: int
    """How long a ticket stays with a producer whose heartbeats do not name it."""
    trace: bool = False
    """Whether the producer is to send its events in TRACE."""

    def __post_init__(self) -> None:
        require(self.world_size <= MAX_RANKS, f"world_size must be at most {MAX_RANKS}", self.world_size)
        require(0 <= self.rank < self.world_size, "rank must be in [0, world_size)", self.rank)
        require(len(self.endpoints) == self.world_size, "endpoints must be world_size many", len(self.endpoints))
        require(len(self.keys) in (0, self.world_size), "keys must be world_size many, or none", len(self.keys))
        is_right = all(len(key) == KEY_LENGTH for key in self.keys)
        require(is_right, f"keys must have {KEY_LENGTH} characters each", [len(key) for key in self.keys])
        require(self.heartbeat_ms >= 1, "heartbeat_ms must be >= 1", self.heartbeat_ms)
        require(self.lease_ms >= 1, "lease_ms must be >= 1", self.lease_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """The rank refuses a producer, by name and for good. Its `v`, `t` and `reason` stand in every protocol version."""

    kind: ClassVar[str] = "REJECT"
    reason: str

    def __post_init__(self) -> None:
        _shorten_reason(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A producer's engine is free. Its credit: how many tickets of this rank it will hold, and bytes of their groups.

    Both are absolute, so that a message said twice does no harm.
    """

    kind: ClassVar[str] = "READY"
    credit_groups: int
    credit_bytes: int

    def __post_init__(self) -> None:
        require(self.credit_groups >= 0, "credit_groups must be >= 0", self.credit_groups)
        require(self.credit_bytes >= 0, "credit_bytes must be >= 0", self.credit_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tickets:
    """Tickets for the producer to hold."""

    kind: ClassVar[str] = "TICKETS"
    tickets: tuple[Ticket, ...]

    def __post_init__(self) -> None:
        limit = MAX_TICKETS_PER_MESSAGE
        require(len(self.tickets) <= limit, f"tickets must be at most {limit}", len(self.tickets))
        values = sum(ticket.recipe.num_per_image_values for ticket in self.tickets)
        rule = f"guidance_scales and candidates of all tickets must be at most {MAX_PER_IMAGE_VALUES}"
        require(values <= MAX_PER_IMAGE_VALUES, rule, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Work on these held tickets has begun."""

    kind: ClassVar[str] = "STARTED"
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """From a producer: what it holds. From a rank: what it believes that the producer holds.

    The first keeps leases alive; the second lets the producer forget what was taken from it.
    """

    kind: ClassVar[str] = "HEARTBEAT"
    held: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a filter chose of a ticket's candidates; the defaults where the ticket asks for none."""

    candidates: tuple[int, ...] = ()
    """Which the images are, in ascending order."""
    num_made: int = 0
    """Candidates that were made and scored."""
    num_unsatisfied: int = 0
    """Images that were rejected, and make up what lacked when all candidates were made."""


NO_CHOICE = Choice()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One finished group. Its pixels follow in one frame: uint8, C order, of `shape`, or a JPEG for each image."""

    kind: ClassVar[str] = "RESULT"
    index: int
    attempt: int
    shape: tuple[int, ...]
    """(m, H, W, 3)."""
    codec: str = RAW
    """`raw` or `jpeg`."""
    sizes: tuple[int, ...] = ()
    """Bytes of each image's JPEG, which lie one after another in the frame; empty for raw."""
    candidates: tuple[int, ...] = ()
    """Which of the ticket's candidates the images are, in ascending order; empty where it asks for no filter."""
    num_made: int = 0
    """Candidates that were made and scored; 0 where the ticket asks for no filter."""
    num_unsatisfied: int = 0
    """Images that were rejected, and make up what lacked when all candidates were made."""
    crc32: int
    """CRC-32 (IEEE 802.3) of the frame as it is sent."""
    seconds: float
    """Time the producer spent on the group: its share of the batch."""

    def __post_init__(self) -> None:
        Attempt(self.index, self.attempt)  # checks both
        require(len(self.shape) == 4 and min(self.shape) >= 1, "shape must be 4 sizes >= 1", self.shape)
        require(self.codec in (RAW, JPEG), f"codec must be {RAW} or {JPEG}", self.codec)
        require(min(self.sizes, default=1) >= 1, "sizes must be >= 1", self.sizes)
        check_candidates(self.candidates, require)
        for name in ("num_made", "num_unsatisfied"):
            count = getattr(self, name)
            require(0 <= count <= MAX_CANDIDATES, f"{name} must be in [0, {MAX_CANDIDATES}]", count)
        require(0 <= self.crc32 < 2**32, "crc32 must be in [0, 2**32)", self.crc32)
        require(self.seconds >= 0, "seconds must be >= 0", self.seconds)

    @property
    def key(self) -> Attempt:
        """The attempt that is meant."""
        return Attempt(self.index, self.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The rank has these groups; the producer may forget them."""

    kind: ClassVar[str] = "ACK"
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack:
    """A message was dropped, or a ticket cannot be made, and why.

    From a rank, `retryable` with `index` -1 means: say HELLO again. From a producer, `retryable` means that the ticket
    is not to blame: the producer has no room for it.
    """

    kind: ClassVar[str] = "NACK"
    index: int
    attempt: int
    reason: str
    retryable: bool

    @property
    def key(self) -> Attempt | None:
        """The attempt that is meant; None where no ticket is."""
        return Attempt(self.index, self.attempt) if self.index >= 0 else None

    @property
    def asks_for_hello(self) -> bool:
        """Whether a rank does not know its producer, or not any more."""
        return self.index == -1 and self.retryable

    def __post_init__(self) -> None:
        require(self.attempt >= 0, "attempt must be >= 0", self.attempt)
        _shorten_reason(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """From a rank: these are not wanted any more. The producer drops them, begun or not.

    It answers with READY when its engine is next free, also where the list is empty.
    """

    kind: ClassVar[str] = "CANCEL"
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """From a producer: it takes no more tickets, finishes what it has begun, and hands the rest back."""

    kind: ClassVar[str] = "DRAIN"
    returned: tuple[Attempt, ...]
    """Held and not begun."""
    reason: str

    def __post_init__(self) -> None:
        _shorten_reason(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """The sender leaves. A producer's tickets go to others at once; a rank's are void."""

    kind: ClassVar[str] = "BYE"
    reason: str

    def __post_init__(self) -> None:
        _shorten_reason(self)


def _shorten_reason(message: "Reject | Nack | Drain | Bye") -> None:
    """Cut a reason that nobody would read to its end, and that the other side would refuse."""
    object.__setattr__(message, "reason", message.reason[:MAX_REASON_LENGTH])


Message = (
    Hello
    | Welcome
    | Reject
    | Ready
    | Tickets
    | Started
    | Heartbeat
    | Status
    | Clock
    | Result
    | Ack
    | Nack
    | Cancel
    | Trace
    | Drain
    | Bye
)

MESSAGE_TYPES: dict[str, type[Message]] = {cls.kind: cls for cls in get_args(Message)}
